// Helpers for the scripts of all pages.

const $ = (id) => document.getElementById(id);

/** Make an element: its properties, then its children. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Times for people: 12:34.56, or 1:02:03.45 from an hour on; without the hundredths where they are not wanted. */
function formatTime(seconds, { hundredths = false } = {}) {
  const whole = Math.floor(hundredths ? Math.round(seconds * 100) / 100 + 1e-9 : seconds);
  const two = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  const head = hours ? `${hours}:${two(minutes)}` : String(minutes);
  const tail = hundredths ? `.${two(Math.round(seconds * 100) % 100)}` : "";
  return `${head}:${two(whole % 60)}${tail}`;
}
