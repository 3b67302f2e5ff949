// The browser's storage: recordings, second by second, and the chosen inbox folder.

const DATABASE = "scribed-recorder";

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function finished(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });
}

/**
 * A recording is {id, name, type, startedAt, state, seconds, bytes, pieces}: `state` is "recording" until it is stopped,
 * `pieces` is the number of pieces of its file. The pieces are in a separate table, so that ten hours need little memory.
 */
class Store {
  static async open() {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("recordings", { keyPath: "id" });
      request.result.createObjectStore("pieces");
      request.result.createObjectStore("settings");
    };
    return new Store(await settled(request));
  }

  constructor(database) {
    this.database = database;
    this.unstored = new Map(); // pieces that did not fit into the storage, by recording
    database.onversionchange = () => database.close();
  }

  /** Write the facts of a recording, and its next piece if there is one; on return they are on disk. */
  async write(recording, data = null) {
    const transaction = this.database.transaction(["recordings", "pieces"], "readwrite", { durability: "strict" });
    const done = finished(transaction);
    if (data) transaction.objectStore("pieces").put(data, [recording.id, recording.pieces - 1]);
    transaction.objectStore("recordings").put(recording);
    await done;
  }

  /** Keep a piece that could not be written in memory, so that the recording can still be saved. */
  hold(recording, data) {
    if (!this.unstored.has(recording.id)) this.unstored.set(recording.id, []);
    this.unstored.get(recording.id).push(data);
  }

  /** All recordings, the latest first. */
  async list() {
    const all = await settled(this.database.transaction("recordings").objectStore("recordings").getAll());
    return all.sort((one, other) => other.startedAt - one.startedAt);
  }

  /** The file of a recording, piece by piece. */
  async *pieces({ id, pieces }) {
    for (let number = 0; number < pieces; number += 1) {
      yield await settled(this.database.transaction("pieces").objectStore("pieces").get([id, number]));
    }
    yield* this.unstored.get(id) ?? [];
  }

  async delete({ id }) {
    const transaction = this.database.transaction(["recordings", "pieces"], "readwrite");
    const done = finished(transaction);
    transaction.objectStore("recordings").delete(id);
    transaction.objectStore("pieces").delete(IDBKeyRange.bound([id], [id, Infinity]));
    await done;
    this.unstored.delete(id);
  }

  setting(name) {
    return settled(this.database.transaction("settings").objectStore("settings").get(name));
  }

  async set(name, value) {
    const transaction = this.database.transaction("settings", "readwrite");
    const done = finished(transaction);
    transaction.objectStore("settings").put(value, name);
    await done;
  }
}
