"""The XML of a docx document: what is always the same, and templates for `str.format`."""

from __future__ import annotations

from typing import Final

_XML: Final = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_WORD: Final = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_PACKAGE: Final = "http://schemas.openxmlformats.org/package/2006"
_OFFICE: Final = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_TYPES: Final = "application/vnd.openxmlformats-officedocument.wordprocessingml"

CONTENT_TYPES: Final = (
    f'{_XML}<Types xmlns="{_PACKAGE}/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="xml" ContentType="application/xml"/>'
    f'<Override PartName="/word/document.xml" ContentType="{_TYPES}.document.main+xml"/>'
    f'<Override PartName="/word/styles.xml" ContentType="{_TYPES}.styles+xml"/>'
    f'<Override PartName="/word/comments.xml" ContentType="{_TYPES}.comments+xml"/>'
    '<Override PartName="/docProps/core.xml" '
    'ContentType="application/vnd.openxmlformats-package.core-properties+xml"/>'
    "</Types>"
)
PACKAGE_RELATIONS: Final = (
    f'{_XML}<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="word/document.xml"/>'
    f'<Relationship Id="rId2" Type="{_PACKAGE}/relationships/metadata/core-properties" Target="docProps/core.xml"/>'
    "</Relationships>"
)
DOCUMENT_RELATIONS: Final = (
    f'{_XML}<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/styles" Target="styles.xml"/>'
    f'<Relationship Id="rId2" Type="{_OFFICE}/comments" Target="comments.xml"/>'
    "</Relationships>"
)
CORE: Final = (
    f'{_XML}<cp:coreProperties xmlns:cp="{_PACKAGE}/metadata/core-properties" '
    'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:dcterms="http://purl.org/dc/terms/" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
    "<dc:title>{title}</dc:title><dc:creator>scribed</dc:creator>"
    '<dcterms:created xsi:type="dcterms:W3CDTF">{at}</dcterms:created></cp:coreProperties>'
)
# A4 with margins of 2.5 cm, in twentieths of a point.
DOCUMENT: Final = (
    f"{_XML}<w:document {_WORD}><w:body>{{body}}<w:sectPr>"
    '<w:pgSz w:w="11906" w:h="16838"/>'
    '<w:pgMar w:top="1417" w:right="1417" w:bottom="1417" w:left="1417" w:header="708" w:footer="708" w:gutter="0"/>'
    "</w:sectPr></w:body></w:document>"
)
PARAGRAPH: Final = '<w:p><w:pPr><w:pStyle w:val="{style}"/>{bidi}</w:pPr>{runs}</w:p>'
RUN: Final = '<w:r><w:rPr>{look}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'
COMMENTED: Final = (
    '<w:commentRangeStart w:id="{number}"/>{runs}<w:commentRangeEnd w:id="{number}"/>'
    '<w:r><w:commentReference w:id="{number}"/></w:r>'
)
COMMENTS: Final = f"{_XML}<w:comments {_WORD}>{{comments}}</w:comments>"
COMMENT: Final = (
    '<w:comment w:id="{number}" w:author="scribed" w:initials="s" w:date="{at}">'
    "<w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:comment>"
)


def _style(name: str, spacing: str, look: str, more: str = "", *, is_default: bool = False) -> str:
    base = "" if is_default else '<w:basedOn w:val="Normal"/>'
    default = ' w:default="1"' if is_default else ""
    return (
        f'<w:style w:type="paragraph"{default} w:styleId="{name}"><w:name w:val="{name}"/>{base}<w:qFormat/>'
        f"<w:pPr><w:spacing {spacing}/>{more}</w:pPr><w:rPr>{look}</w:rPr></w:style>"
    )


STYLES: Final = (
    f"{_XML}<w:styles {_WORD}><w:docDefaults><w:rPrDefault><w:rPr>"
    '<w:rFonts w:ascii="Calibri" w:hAnsi="Calibri" w:cs="Arial"/><w:sz w:val="22"/><w:szCs w:val="22"/>'
    "</w:rPr></w:rPrDefault></w:docDefaults>"
    + _style("Normal", 'w:after="160" w:line="288" w:lineRule="auto"', "", is_default=True)
    + _style("Title", 'w:after="120"', '<w:b/><w:sz w:val="36"/><w:szCs w:val="36"/>')
    + _style(
        "Facts",
        'w:after="280"',
        '<w:color w:val="444444"/><w:sz w:val="20"/><w:szCs w:val="20"/>',
        "<w:contextualSpacing/>",  # no space between paragraphs of this style
    )
    + _style("Gap", 'w:before="160" w:after="160"', '<w:i/><w:color w:val="444444"/>')
    + "</w:styles>"
)
