// The map of all images: pan, zoom, hover, click, box and lasso. Points never travel back: a selection is sent
// as its outline, and the server answers with one bit per point.

const HOVER_REACH = 10; // CSS pixels
const AIM_REACH = 60; // of the cross in the middle
const CARD_DELAY = 125; // ms
const CARDS_KEPT = 300;
const CORNERS = 160; // of an outline that is sent
const SMALLEST_AREA = 40; // square pixels; less is a click that slipped
const SMALL = 96; // pixels; smaller pictures are shown with their pixels
const views = new WeakMap();

export default function (component) {
  const root = component.parentElement;
  if (!views.has(root)) views.set(root, new MapView(root));
  const view = views.get(root);
  view.update(component);
  return () => view.close();
}

class MapView {
  constructor(root) {
    this.root = root;
    this.find = (selector) => root.querySelector(selector);
    this.stage = this.find(".stage");
    this.raster = new Raster(this.find(".points"));
    this.camera = new Camera();
    this.hidden = new Set();
    this.only = null;
    this.cards = new Map();
    this.outbox = new Outbox();
    this.ends = [];
    this.draw = oncePerFrame(() => this.redraw());
    this.drawOver = oncePerFrame(() => this.redrawOver());
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.stage);
    connectPointer(this);
    connectKeys(this);
    connectBar(this);
  }

  update({ data, setStateValue }) {
    this.setState = setStateValue;
    this.palettes = data.palettes;
    this.legend = data.legend;
    this.stage.style.height = `${data.height}px`;
    if (this.name !== data.channel) this.listen(data.channel);
    this.recolor();
  }

  listen(name) {
    this.ends.forEach((end) => end());
    this.name = name;
    this.ends = [
      subscribe(`${name}.points`, (message) => this.usePoints(message)),
      subscribe(`${name}.coloring`, (message) => this.useColoring(message)),
      subscribe(`${name}.reply`, (message) => this.useReply(message)),
      subscribe(`${name}.card`, (message) => this.keepCard(message)),
    ];
  }

  close() {
    this.ends.forEach((end) => end());
    this.observer.disconnect();
    this.cards.forEach(({ url }) => url && URL.revokeObjectURL(url));
    views.delete(this.root);
  }

  usePoints({ positions, groups, digest, places }) {
    const moved = this.places !== places;
    Object.assign(this, { positions, groups, places });
    this.index = new PointIndex(positions, groups, SHAPES.length);
    if (moved) this.forgetPlaces();
    this.root.host.dataset.points = digest;
    this.useReply(this.reply ?? {});
    this.recolor();
  }

  forgetPlaces() {
    this.cards.clear();
    this.hovered = -1;
    this.fitted = false;
    this.resize();
  }

  useColoring(coloring) {
    this.coloring = coloring;
    this.only = null;
    this.recolor();
  }

  /** Tell the server what was done; of what was hovered, only the last matters. */
  tell(name, value) {
    this.outbox.post(this.setState, name, value, { replace: name === "hovered" });
  }

  /** Take over the selection, one bit per point, and the lines to the clicked point's neighbours. */
  useReply(reply) {
    if (reply.heard) this.outbox.acknowledge(reply.heard);
    this.reply = reply;
    this.selected = null;
    if (reply.selected && this.index) {
      this.selected = Uint8Array.from(this.index.order, (point) => (reply.selected[point >> 3] >> (point & 7)) & 1);
    }
    this.showStatus();
    this.draw();
  }

  recolor() {
    if (!this.index || !this.palettes) return;
    const palette = currentPalette(this.palettes, this.root);
    const background = packedColor(palette.background);
    this.palette = palette;
    this.style = {
      background,
      grey: blend(background, packedColor(palette.groups[0]), 150),
      color: colorsOf(this.index, this.coloring, palette, this.only),
      groupColors: isByGroup(this.coloring) ? palette.groups.map(packedColor) : null,
    };
    this.showLegend();
    this.draw();
  }

  resize() {
    this.camera.resize(this.stage.clientWidth, this.stage.clientHeight);
    if (!this.fitted && this.index && this.stage.clientWidth) {
      this.camera.fit(this.index.box);
      this.fitted = true;
    }
    this.draw();
  }

  redraw() {
    if (!this.index || !this.style || !this.stage.clientWidth) return;
    const style = { ...this.style, selected: this.selected, hidden: this.hidden };
    const shown = this.raster.draw(this.index, this.camera, style);
    if (this.stage.dataset.shown !== shown) this.sayHow(shown);
    this.stage.dataset.drawn = this.index.count;
    this.redrawOver();
  }

  sayHow(shown) {
    this.stage.dataset.shown = shown;
    this.find(".hint").hidden = shown === "points";
  }

  redrawOver() {
    if (!this.palette) return;
    const hovered = this.hovered >= 0 ? this.placeOf(this.hovered) : null;
    const links = this.reply?.to ? this.reply : null;
    const over = { hovered, links, outline: this.outline, isAiming: this.isAiming };
    drawOverlay(this.find(".overlay"), this.camera, over, this.palette);
  }

  placeOf(point) {
    return [this.positions[2 * point], this.positions[2 * point + 1]];
  }

  /** The point under a place on the screen, or -1. */
  pointAt(left, top, pixels = HOVER_REACH) {
    if (!this.index) return -1;
    const reach = pixels / this.camera.scale;
    const place = this.index.nearest(...this.camera.toMap(left, top), reach, (group) => this.hidden.has(group));
    return place < 0 ? -1 : this.index.order[place];
  }

  /** The point that the cross in the middle aims at, or -1. */
  pointAtMiddle() {
    return this.pointAt(this.camera.width / 2, this.camera.height / 2, AIM_REACH);
  }

  /** Show the cross for those who use keys, and what it aims at. */
  aim() {
    this.isAiming = true;
    this.hovered = -1;
    this.hover(this.pointAtMiddle());
    this.drawOver();
  }

  stopAiming() {
    this.isAiming = false;
    this.hover(-1);
    this.drawOver();
  }

  hover(point) {
    if (point === this.hovered) return;
    this.hovered = point;
    this.drawOver();
    this.find(".card").hidden = true;
    clearTimeout(this.dwell);
    if (point >= 0) this.dwell = setTimeout(() => this.askForCard(point), CARD_DELAY);
  }

  askForCard(point) {
    this.showCard(point);
    if (!this.cards.has(point)) this.tell("hovered", point);
  }

  /** Keep what the server says of a point, its picture included. */
  keepCard({ point, lines, image }) {
    const url = image.length ? URL.createObjectURL(new Blob([image])) : "";
    this.cards.set(point, { lines, url });
    if (this.cards.size > CARDS_KEPT) this.dropOldestCard();
    if (point === this.hovered && !this.find(".card").hidden) this.showCard(point);
  }

  dropOldestCard() {
    const [oldest, { url }] = this.cards.entries().next().value;
    if (url) URL.revokeObjectURL(url);
    this.cards.delete(oldest);
  }

  showCard(point) {
    const card = this.find(".card");
    const known = this.cards.get(point);
    const words = [...(known?.lines ?? []), ...wordsOf(point, this.groups[point], this.legend, this.coloring)];
    card.querySelector(".lines").replaceChildren(...words.map((text) => element("p", { text })));
    const image = card.querySelector("img");
    image.hidden = !known?.url;
    image.onload = () => image.classList.toggle("small", image.naturalWidth < SMALL);
    if (known?.url) image.src = known.url;
    card.hidden = false;
    this.placeCard(card, this.camera.toScreen(...this.placeOf(point)));
  }

  /** Put the card beside its point, on the side where there is room. */
  placeCard(card, [left, top]) {
    const right = left + 16 + card.offsetWidth > this.camera.width;
    const below = top + 16 + card.offsetHeight > this.camera.height;
    card.style.left = `${Math.max(0, right ? left - 16 - card.offsetWidth : left + 16)}px`;
    card.style.top = `${Math.max(0, below ? top - 16 - card.offsetHeight : top + 16)}px`;
  }

  /** Send an outline, drawn in pixels, in the map's coordinates, and which groups it does not select: those hidden. */
  select(corners) {
    if (corners.length < 3 || enclosed(corners) < SMALLEST_AREA) return;
    const polygon = thinned(corners, CORNERS).map(([left, top]) => this.camera.toMap(left, top));
    const outline = polygon.flat().map((value) => Number(value.toPrecision(7)));
    this.tell("polygon", { outline, hidden: [...this.hidden] });
  }

  clear() {
    this.hover(-1);
    this.outline = null;
    this.useReply({});
    this.tell("cleared", true);
  }

  move(action) {
    action(this.camera);
    this.find(".card").hidden = true;
    this.draw();
  }

  showStatus() {
    const parts = [];
    if (this.selected) parts.push(`${count(sum(this.selected))} of ${count(this.index.count)} points selected.`);
    if (this.reply.to) {
      const { far } = this.reply;
      parts.push(`${count(sum(far))} of ${count(far.length)} true neighbours are elsewhere on the map (dashed).`);
    }
    this.find(".status").textContent = parts.join(" ");
  }

  showLegend() {
    const entries = this.legend.map((group) => groupButton(this, group, isByGroup(this.coloring)));
    const classes = this.coloring?.kind === "class" ? classEntries(this.coloring) : [];
    entries.push(...classes.map((entry) => classButton(this, entry)));
    const focused = entries.findIndex((_, at) => this.find(".legend").children[at]?.contains(this.root.activeElement));
    this.find(".legend").replaceChildren(...entries);
    if (focused >= 0) entries[focused].querySelector("button").focus();
    const ramp = this.coloring?.kind === "value" ? [rampLegend(this.coloring, this.palette)] : [];
    this.find(".coloring").replaceChildren(...ramp);
  }
}

/** A legend entry that hides or shows the points of a group. */
function groupButton(view, { index, words }, byGroup) {
  const color = byGroup ? view.palette.groups[index] : view.palette.text;
  const shown = !view.hidden.has(index);
  return legendButton(markerPicture(SHAPES[index], color, Math.min(1, SIZES[index])), words, shown, () => {
    if (shown) view.hidden.add(index);
    else view.hidden.delete(index);
    view.showLegend();
    view.draw();
  });
}

/** A legend entry that greys every other class while it is pressed. */
function classButton(view, { code, words }) {
  const color = classColor(code, view.palette);
  const pressed = view.only === code;
  const entry = legendButton(markerPicture("disc", color), words, pressed || view.only === null, () => {
    view.only = pressed ? null : code;
    view.recolor();
  });
  entry.firstChild.classList.toggle("only", pressed);
  return entry;
}

function legendButton(picture, words, pressed, press) {
  const entry = element("li");
  const button = element("button", { type: "button", "aria-pressed": String(pressed) });
  button.append(picture, words);
  button.addEventListener("click", press);
  entry.append(button);
  return entry;
}

/** A marker for the legend; size is relative, for shapes that only differ by that. */
function markerPicture(shape, color, size = 1) {
  const canvas = Object.assign(document.createElement("canvas"), { width: 36, height: 36 });
  const context = canvas.getContext("2d");
  Object.assign(context, { fillStyle: color, strokeStyle: color });
  context.setTransform(2, 0, 0, 2, 18, 18);
  drawShape(context, shape, 6 * size);
  return canvas;
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
