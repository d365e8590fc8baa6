// The colour of every point, packed, in the index's order, for each way to colour; and the legend to it.

const OTHER_CLASS = 255; // codes of points that have no colour of their own, as the server numbers them
const NO_CLASS = 254;

/** The colour of each sorted place: by group, by value or by class; only is one class to show, or null. */
function colorsOf(index, coloring, palette, only) {
  if (isByGroup(coloring)) return groupColors(index, palette);
  if (coloring.kind === "value") return valueColors(index, coloring, palette);
  return classColors(index, coloring, palette, only);
}

const isByGroup = (coloring) => !coloring || coloring.kind === "group";

function groupColors(index, palette) {
  const colors = new Uint32Array(index.count);
  palette.groups.forEach((hex, group) => colors.fill(packedColor(hex), ...index.group(group)));
  return colors;
}

function valueColors(index, coloring, palette) {
  const ramp = rampOf(coloring.center === null ? palette.value_ramp : palette.score_ramp);
  const unknown = packedColor(palette.groups[0]);
  return Uint32Array.from(index.order, (point) => {
    const value = coloring.values[point];
    return Number.isNaN(value) ? unknown : ramp[Math.round(255 * rampPlace(value, coloring))];
  });
}

/** Where a value lies on its ramp, in [0, 1]; the centre, where there is one, is the middle. */
function rampPlace(value, { low, high, center }) {
  const part = (from, to) => (to > from ? Math.min(1, Math.max(0, (value - from) / (to - from))) : 0.5);
  if (center === null) return part(low, high);
  return value < center ? part(low, center) / 2 : 0.5 + part(center, high) / 2;
}

function rampOf(stops) {
  const packed = stops.map(packedColor);
  return Uint32Array.from({ length: 256 }, (_, step) => {
    const place = (step / 255) * (packed.length - 1);
    const from = Math.min(Math.floor(place), packed.length - 2);
    return blend(packed[from], packed[from + 1], Math.round(256 * (place - from)));
  });
}

/** The colour of a class by its code; points without one stand out from those that are not selected. */
function classColor(code, palette) {
  return code === NO_CLASS ? palette.text : (palette.series[code] ?? palette.groups[0]);
}

function classColors(index, coloring, palette, only) {
  const faint = blend(packedColor(palette.background), packedColor(palette.groups[0]), 128);
  const packed = Uint32Array.from({ length: OTHER_CLASS + 1 }, (_, code) => packedColor(classColor(code, palette)));
  return Uint32Array.from(index.order, (point) => {
    const code = coloring.codes[point];
    if (only !== null && code !== only) return faint;
    return packed[code];
  });
}

/** What the browser knows of a point without asking: group, and value or class, in words. */
function wordsOf(point, group, legend, coloring) {
  const words = [legend.find(({ index }) => index === group)?.words ?? ""];
  if (coloring?.kind === "value" && !Number.isNaN(coloring.values[point])) {
    words.push(`${coloring.label}: ${signed(coloring.values[point])}`);
  }
  if (coloring?.kind === "class") words.push(`${coloring.label}: ${className(coloring, coloring.codes[point])}`);
  return words;
}

function className({ names }, code) {
  return code === NO_CLASS ? "none known" : (names[code] ?? "another");
}

/** The classes that a legend names: code and words of each that has points. */
function classEntries({ names, label, others, none }) {
  const entries = names.map((words, code) => ({ code, words }));
  if (others) entries.push({ code: OTHER_CLASS, words: `another ${label}` });
  if (none) entries.push({ code: NO_CLASS, words: `no ${label} known` });
  return entries;
}

/** The bar that explains a ramp: its colours with the values at both ends and at the centre. */
function rampLegend({ label, low, high, center }, palette) {
  const entry = element("div", { class: "ramp" });
  const bar = element("span", { class: "bar" });
  bar.style.background = `linear-gradient(to right, ${(center === null ? palette.value_ramp : palette.score_ramp).join(", ")})`;
  const middle = center === null ? "" : `threshold ${signed(center)}`;
  entry.append(element("span", { text: label }), element("span", { text: signed(low) }), bar);
  entry.append(element("span", { text: signed(high) }), element("span", { text: middle && `(middle: ${middle})` }));
  return entry;
}
