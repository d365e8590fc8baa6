// What every component shares: messages between components, packed arrays, the theme, canvases, numbers.
// This file is put before each component's own files, so everything here is a plain function.

const CHANNELS = Symbol.for("nnguide.channels");
const ARRAY_TYPES = {
  f4: Float32Array, f8: Float64Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i4: Int32Array,
};

/** The page's one board of messages: the latest per channel, and who wants to hear of it. */
function channels() {
  globalThis[CHANNELS] ??= { messages: new Map(), listeners: new Map() };
  return globalThis[CHANNELS];
}

/** Put a message on a channel, unless the same one is there already. */
function publish(name, message) {
  const { messages, listeners } = channels();
  if (messages.get(name)?.digest === message.digest) return;
  messages.set(name, message);
  for (const listener of listeners.get(name) ?? []) listener(message);
}

/** Take a channel's message away when its sender leaves the page. */
function withdraw(name, digest) {
  const { messages } = channels();
  if (messages.get(name)?.digest === digest) messages.delete(name);
}

/** Call listener with the channel's message, now if there is one and whenever it changes; returns the end of it. */
function subscribe(name, listener) {
  const { messages, listeners } = channels();
  if (!listeners.has(name)) listeners.set(name, new Set());
  listeners.get(name).add(listener);
  if (messages.has(name)) listener(messages.get(name));
  return () => listeners.get(name).delete(listener);
}

/** Read what the Python side packed: a JSON header, then arrays at multiples of eight bytes. */
function unpack(bytes) {
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  const message = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const body = Math.ceil((4 + length) / 8) * 8;
  for (const part of message.arrays) message[part.name] = typedArray(bytes, body + part.start, part);
  return message;
}

function typedArray(bytes, start, part) {
  const Type = ARRAY_TYPES[part.type];
  const offset = bytes.byteOffset + start;
  if (offset % Type.BYTES_PER_ELEMENT === 0) return new Type(bytes.buffer, offset, part.length);
  return new Type(bytes.slice(start, start + part.length * Type.BYTES_PER_ELEMENT).buffer);
}

/** What the user did and the server has not answered: all of it is told again with whatever comes next. */
class Outbox {
  constructor() {
    this.events = [];
    this.last = 0;
  }

  /** Tell the server; with replace, an unanswered event of the same name no longer matters. */
  post(setStateValue, name, value, { replace = false } = {}) {
    this.last = Math.max(Date.now(), this.last + 1);
    if (replace) this.events = this.events.filter((event) => event.name !== name);
    this.events.push({ stamp: this.last, name, value });
    setStateValue("events", this.events);
  }

  /** Forget what was answered; true if nothing is left. */
  acknowledge(heard) {
    this.last = Math.max(this.last, heard);
    this.events = this.events.filter((event) => event.stamp > heard);
    return this.events.length === 0;
  }
}

/** The palette that fits the page's background, from {light, dark}. */
function currentPalette(palettes, root) {
  const style = getComputedStyle(root.host ?? root);
  return isDark(style.getPropertyValue("--st-background-color")) ? palettes.dark : palettes.light;
}

function isDark(color) {
  const probe = document.createElement("canvas").getContext("2d");
  probe.fillStyle = color.trim();
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(probe.fillStyle.slice(at, at + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue < 128;
}

/** Size a canvas to its box in device pixels and clear it; draws in CSS pixels from then on. */
function fitCanvas(canvas) {
  const ratio = globalThis.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  const [columns, rows] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== columns || canvas.height !== rows) Object.assign(canvas, { width: columns, height: rows });
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** Make an element with text, class and attributes; text is only ever text. */
function element(tag, { text, ...attributes } = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** One line of a legend: a swatch and its words. */
function legendEntry(words, background) {
  const entry = element("li");
  const swatch = element("span", { class: "swatch" });
  swatch.style.background = background;
  entry.append(swatch, words);
  return entry;
}

/** Run draw at most once per frame, however often it is asked for. */
function oncePerFrame(draw) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      draw();
    });
  };
}

const count = (value) => Math.round(value).toLocaleString("en");
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const signed = (value, digits = 2) => value.toFixed(digits).replace("-", "−");

/** Round numbers from low to high, about as many as asked for. */
function niceTicks(low, high, wanted) {
  const raw = (high - low) / wanted;
  if (!(raw > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, index) => (first + index) * step);
}
