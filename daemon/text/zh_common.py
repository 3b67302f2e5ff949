"""The built-in corrections `zh-common`: slips between 的, 地 and 得 and between 在 and 再 in Mandarin. Pure.

These words sound alike, and which one is right often depends on what the sentence means: 他写的很好 may praise the
writer or the text. So only what no correct sentence contains is corrected; other slips stay. docs/corrections.md has
an example of each rule.
"""

# ruff: noqa: RUF001  # Chinese punctuation is meant

from __future__ import annotations

from typing import Final

import regex

_LANGUAGE: Final = "Chinese"

# The patterns are written in simplified characters. Traditional text is matched through this table, one character for
# one, so that places stay the same. The characters that are corrected are the same in both scripts.
_SIMPLIFIED: Final = str.maketrans(
    "沒見後週頭師閱們學從現內調囑慮問辭謝豫領導醫遲裡裏蹲東鑰機兒開會飯話開樣幾點聽寫習準備趕討論載進總還讓覺記嗎時"
    "賴學習薦揚慶興關紀來捨顧變氣關係況臉聲體強聰飛遊長傷較動認緊難過奮驕輕號郵於終無搖嘆麼別辦張猶電說説",
    "没见后周头师阅们学从现内调嘱虑问辞谢豫领导医迟里里蹲东钥机儿开会饭话开样几点听写习准备赶讨论载进总还让觉记吗时"
    "赖学习荐扬庆兴关纪来舍顾变气关系况脸声体强聪飞游长伤较动认紧难过奋骄轻号邮于终无摇叹么别办张犹电说说",
)


def _any(words: str) -> str:
    return f"(?:{'|'.join(words.split())})"


def _rule(right: str, *pattern: str) -> tuple[regex.Pattern[str], str]:
    """Return a rule: the group of its pattern is the slip, and `right` what belongs there."""
    return regex.compile("".join(pattern)), right


_START: Final = r"(?<!\w)"  # of a clause
_END: Final = r"(?!\w)"
_PERSON: Final = "(?<=[我你您他她它们])"
_VERY: Final = _any("很 非常 特别 太 真 好 十分 挺 比较")
_GREETED: Final = _any("明天 后天 下周 回头 老师 大家 各位 朋友们 同学们")
_CHANGING: Final = _any("天气 生活 世界 关系 事情 情况 心情 脸色 声音 身体 城市")
_FEELING: Final = _any("高兴 开心 生气 激动 认真 紧张 难过 兴奋 骄傲 自豪 大声 小声 轻声")

_RULES: Final = (
    _rule("再", f"(?:{_START}|(?<={_GREETED}))", f"(在)见(?=[了啦吧哦]?{_END})"),
    _rule("再", f"(?<={_any('从此 以后 今后')})", "(在)也(?=[不没])"),
    _rule("再", "(?<![排站住现存正所内])", f"(在)三(?={_any('强调 嘱咐 叮嘱 考虑 思量 追问 推辞 道谢 犹豫 挽留')})"),
    _rule(
        "再",
        f"(?:{_PERSON}|(?<={_any('老师 医生 领导')}))",
        f"一(在)(?={_any('强调 嘱咐 叮嘱 提醒 重申 追问 拖延 推迟')})",
        r"(?!\w*[，、；]一在)",
    ),
    _rule("在", f"(?:{_PERSON}|(?<=[不都人]))", f"(再)家(?={_any('里(?!蹲) 吃 休息 睡 工作 办公 学习 等 待 陪')})"),
    _rule(
        "在",
        f"(?:{_PERSON}|(?<={_any('人 到 东西 钥匙 手机')}))",
        f"(再)哪(?=[里儿](?:[呢啊呀]?{_END}|{_any('工作 上班 住 开会 吃饭 等')}))",
    ),
    _rule(
        "在",
        f"(?:{_START}|{_PERSON}|(?<=[从到那]))",
        f"现(再)(?=[的是已还我你他她很都也]|{_any('开始 可以 怎么 几点')}|{_END})",
    ),
    _rule(
        "在",
        f"(?:{_START}|{_PERSON})",
        f"正(再)(?={_any('吃 睡 看 听 写 做 开会 工作 学习 准备 等 赶 讨论 下载 进行 路上 家')})",
        r"(?!\w{0,6}[遍次])",
    ),
    _rule("得", f"(?:{_PERSON}|(?<=[总都也就还]|大家|让人))", "觉(的)"),
    _rule("得", "(?<=[你您]还)", rf"记(的)(?=吗{_END}|{_any('我 他 她 那时 小时候')}\w{{0,8}}吗{_END})"),
    _rule(
        "得",
        f"(?:{_START}|(?<=[很也都更不就才真]|非常|十分|特别))",
        f"值(的)(?={_any('一提 注意 信赖 学习 推荐 期待 尊敬 尊重 表扬 庆祝 高兴 关注 思考 肯定 纪念')})",
    ),
    _rule("得", f"(?:{_START}|(?<=[还都就才]|完全))", f"来(的)及(?=[吗吧的]?{_END})"),
    _rule("得", "[恨巴怪舍顾怨见]不(的)"),
    _rule("得", f"(?:{_PERSON}|(?<=[也就都]))", r"不(的)不(?=\w)"),
    _rule(
        "得",
        f"(?:{_PERSON}|(?<={_CHANGING}))",
        f"变(的)(?={_any('更加(?!是) 越来越 非常 十分 特别 更好 更强 更美 更快 更大 更高 更聪明 漂亮 模糊')})",
        r"(?!\w{0,4}[多少])",
    ),
    # Verbs without an object: what they are with 的 cannot be quick or early.
    _rule(
        "得",
        f"{_PERSON}[跑飞游长站坐起笑哭睡玩活]",
        f"(的)(?={_VERY}{_any('快 慢 早 晚 高 直 开心 伤心 香 累 久')}了?{_END})",
    ),
    _rule(
        "地",
        f"(?<=[我你您他她它们](?:很|非常|十分)?{_FEELING})",
        f"(的)(?={_any('说道 问道 答道 喊道 回答道')}[：:，,]|{_any('点了点头 摇了摇头 叹了口气')}{_END})",
    ),
    _rule("的", _PERSON, rf"(得)(?={_any('名字 电话 手机号 地址 邮箱')}[是叫])(?!\w*才)"),
    _rule("的", f"(?<=[的其此]|{_any('主要 最终 真正')})", f"目(地)(?=是|在于|就是|{_END})"),
)


def correct_zh_common(text: str, language: str | None) -> str:
    """Return the text of a Mandarin segment without these slips; a text in another language as it is."""
    if language != _LANGUAGE:
        return text
    for pattern, right in _RULES:
        for found in pattern.finditer(text.translate(_SIMPLIFIED)):
            text = text[: found.start(1)] + right + text[found.end(1) :]
    return text


def count_rules() -> int:
    """Return how many rules there are."""
    return len(_RULES)
