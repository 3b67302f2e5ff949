// Saves a finished recording to the inbox, or downloads it.

const CAN_WRITE = "showDirectoryPicker" in window;
const BATCH = 300; // pieces

/** A name that is valid on every system and that scribed does not mistake for a temporary file. */
function cleanName(name, fallback) {
  const clean = name
    .normalize("NFC")
    .replace(/[\\/:*?"<>|\p{Cc}\p{Cs}]/gu, " ")
    .replace(/\s+/g, " ")
    .replace(/^[\s.~]+|[\s.~]+$/g, "");
  return [...clean].slice(0, 80).join("").trim() || fallback;
}

/** Ask for the folder; null if the user cancels. */
async function chooseFolder(store) {
  try {
    const folder = await showDirectoryPicker({ id: "scribed-inbox", mode: "readwrite" });
    await store.set("inbox", folder).catch(() => {}); // then the browser asks again next time
    return folder;
  } catch (error) {
    if (error.name === "AbortError") return null;
    throw error;
  }
}

/** The first of "name.webm", "name (2).webm", ... that the folder does not have. */
async function freeName(folder, name, ending) {
  for (let number = 1; ; number += 1) {
    const full = number === 1 ? `${name}.${ending}` : `${name} (${number}).${ending}`;
    try {
      await folder.getFileHandle(full);
    } catch (error) {
      if (error.name === "NotFoundError") return full;
      if (error.name !== "TypeMismatchError") throw error; // a folder has this name
    }
  }
}

/** Write a recording to a folder and return its name there. The browser writes to NAME.crswap first, so it appears complete. */
async function putInto(folder, store, recording) {
  if ((await folder.requestPermission({ mode: "readwrite" })) !== "granted") throw new DOMException("", "NotAllowedError");
  const name = await freeName(folder, recording.name, endingOf(recording.type));
  const file = await folder.getFileHandle(name, { create: true });
  const stream = await file.createWritable();
  try {
    for await (const piece of store.pieces(recording)) await stream.write(piece);
    await stream.close();
  } catch (error) {
    await stream.abort().catch(() => {});
    await folder.removeEntry(name).catch(() => {}); // empty, because nothing was closed
    throw error;
  }
  return name;
}

/** The message for an error of the folder. */
function explainFolder(error, folder) {
  if (error.name === "NotAllowedError") return `The browser was not allowed to write to “${folder.name}”. Try again and allow it.`;
  if (error.name === "NotFoundError") return `The folder “${folder.name}” was not found. Reconnect the share, or choose another folder.`;
  if (error.name === "QuotaExceededError") return `The disk of “${folder.name}” is full. Free some space there, or download the recording.`;
  return `The recording could not be written to “${folder.name}”. Try again, or download it. The browser reports: ${error.message || error.name}`;
}

/** The whole file of a recording. The browser keeps blobs on disk, so even hours need little memory. */
async function fileOf(store, recording) {
  const parts = [];
  let batch = [];
  for await (const piece of store.pieces(recording)) {
    batch.push(piece);
    if (batch.length === BATCH) parts.push(new Blob(batch.splice(0)));
  }
  return new Blob([...parts, ...batch], { type: recording.type });
}
