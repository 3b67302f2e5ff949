// The recordings in this browser: each can be named, played, saved to the inbox, downloaded and deleted.

class RecordingList {
  constructor(store, root) {
    this.store = store;
    this.root = root;
    this.folder = null;
    this.say = () => {};
  }

  /** Show the recordings that are not in progress in any tab; return those that were interrupted. */
  async refresh() {
    const { held } = await navigator.locks.query();
    const locks = new Set(held.map(({ name }) => name));
    const all = (await this.store.list()).filter(({ id, state }) => state === "done" || !locks.has(lockOf(id)));
    const shown = all.filter((recording) => recording.pieces || this.store.unstored.has(recording.id));
    for (const empty of all) if (!shown.includes(empty)) await this.store.delete(empty);
    const before = new Map([...this.root.children].map((item) => [item.dataset.id, item]));
    this.root.replaceChildren(...shown.map((recording) => before.get(recording.id) ?? this.#item(recording)));
    $("kept").hidden = !shown.length;
    $("where").hidden = !this.folder;
    $("inbox").textContent = this.folder?.name ?? "";
    return shown.filter(({ state }) => state === "recording");
  }

  /** Focus the name of the recording that has just ended. */
  focus(id) {
    const field = this.root.querySelector(`[data-id="${id}"] input`);
    field?.focus();
    field?.select();
  }

  #item(recording) {
    const ending = endingOf(recording.type);
    const when = new Date(recording.startedAt).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    const name = make("input", { type: "text", value: recording.name, autocomplete: "off", dir: "auto", maxLength: 80 });
    name.setAttribute("aria-label", "Name of the recording");
    const facts = make("p", { className: "facts" });
    const size = `${(recording.bytes / 1e6).toFixed(1)} MB`;
    for (const fact of [when, formatTime(recording.seconds), size]) facts.append(make("span", { textContent: fact }));
    if (recording.state === "recording") facts.append(make("span", { textContent: "interrupted", className: "broken" }));
    const button = (text, act, properties = {}) => {
      const made = make("button", { type: "button", ...properties });
      let isBusy = false;
      made.addEventListener("click", async () => {
        if (isBusy) return;
        isBusy = true;
        await act(made).finally(() => (isBusy = false));
      });
      label(made, text, recording);
      return made;
    };
    const remove = button("Delete", () => this.#delete(recording, remove), { className: "delete" });
    remove.addEventListener("blur", () => this.#doubt(recording, remove, false));
    const actions = make(
      "div",
      { className: "actions" },
      ...(CAN_WRITE ? [button("Save to the inbox", () => this.#put(recording), { className: "main" })] : []),
      button("Download", () => this.#download(recording), { className: CAN_WRITE ? "" : "main" }),
      button("Listen", (pressed) => this.#listen(recording, item, pressed)),
      remove,
    );
    const item = make("li", {}, make("div", { className: "name" }, name, make("small", { textContent: `.${ending}` })), facts, actions);
    item.dataset.id = recording.id;
    const rename = async () => {
      recording.name = name.value = cleanName(name.value, recording.name);
      for (const each of actions.children) label(each, each.textContent, recording);
      await this.store.write(recording).catch(() => {}); // the name is kept until the page is closed
    };
    name.addEventListener("change", rename);
    name.addEventListener("keydown", (event) => event.key === "Enter" && !event.isComposing && actions.firstElementChild.focus());
    return item;
  }

  async #put(recording) {
    const folder = this.folder ?? (await chooseFolder(this.store).catch((error) => this.say(error.message, true)));
    if (!folder) return;
    this.folder = folder;
    try {
      const name = await putInto(folder, this.store, recording);
      await this.store.delete(recording);
      await this.refresh();
      this.say(`“${name}” was saved to “${folder.name}” and removed from this browser.`);
    } catch (error) {
      await this.refresh();
      this.say(explainFolder(error, folder), true);
    }
  }

  async #download(recording) {
    const link = make("a", { download: `${recording.name}.${endingOf(recording.type)}` });
    link.href = URL.createObjectURL(await fileOf(this.store, recording));
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    this.say(`“${link.download}” was downloaded: move it into the inbox. A copy stays here until you delete it.`);
  }

  async #listen(recording, item, pressed) {
    const there = item.querySelector("audio");
    label(pressed, there ? "Listen" : "Close", recording);
    if (there) {
      URL.revokeObjectURL(there.src);
      there.remove();
      return;
    }
    const audio = make("audio", { controls: true, src: URL.createObjectURL(await fileOf(this.store, recording)) });
    audio.setAttribute("aria-label", recording.name);
    item.append(audio);
    await findLength(audio);
    audio.play().catch(() => {});
  }

  /** The first press asks, the second deletes. */
  async #delete(recording, button) {
    if (!button.classList.contains("sure")) {
      this.#doubt(recording, button, true);
      return;
    }
    await this.store.delete(recording);
    await this.refresh();
    this.say(`“${recording.name}” was deleted.`);
  }

  #doubt(recording, button, isAsked) {
    button.classList.toggle("sure", isAsked);
    label(button, isAsked ? "Delete permanently" : "Delete", recording);
  }
}

/** A file that was written during recording does not state its length; seeking to the end makes the browser find it. */
async function findLength(audio) {
  await new Promise((loaded) => (audio.onloadedmetadata = audio.onerror = loaded));
  if (Number.isFinite(audio.duration)) return;
  audio.currentTime = Number.MAX_SAFE_INTEGER;
  await new Promise((found) => (audio.onseeked = audio.onerror = found));
  audio.currentTime = 0;
}

/** Set the text of a button; screen readers also read the name of its recording. */
function label(button, text, recording) {
  button.textContent = text;
  button.setAttribute("aria-label", `${text}: ${recording.name}`);
}
