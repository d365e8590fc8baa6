// A grid of thumbnails. Images become visible when they are scrolled to; names are only ever text.

const SMALL = 96; // pixels; smaller pictures are shown with their pixels
const views = new WeakMap();

export default function (component) {
  const root = component.parentElement;
  if (!views.has(root)) views.set(root, new GalleryView(root));
  const view = views.get(root);
  view.update(component);
  return () => view.close();
}

class GalleryView {
  constructor(root) {
    this.root = root;
    this.grid = root.querySelector(".grid");
    this.tiles = [];
    this.urls = [];
    this.ends = [];
    this.outbox = new Outbox();
    this.observer = new IntersectionObserver((entries) => this.reveal(entries), {
      root: this.grid,
      rootMargin: "300px",
    });
    this.grid.addEventListener("click", (event) => this.select(event.target.closest(".tile")));
    this.grid.addEventListener("keydown", (event) => this.move(event));
  }

  update({ data, setStateValue }) {
    this.tell = setStateValue;
    this.palettes = data.palettes;
    this.groups = data.groups;
    this.grid.setAttribute("aria-label", data.label);
    this.grid.style.maxHeight = `${data.height}px`;
    if (this.name !== data.channel) this.listen(data.channel);
    this.color();
  }

  listen(name) {
    this.ends.forEach((end) => end());
    this.name = name;
    this.ends = [
      subscribe(`${name}.tiles`, (message) => this.show(message)),
      subscribe(`${name}.selection`, (reply) => this.useReply(reply)),
    ];
  }

  close() {
    this.ends.forEach((end) => end());
    this.observer.disconnect();
    this.urls.forEach((url) => URL.revokeObjectURL(url));
    views.delete(this.root);
  }

  show({ tiles, images }) {
    this.observer.disconnect();
    this.urls.forEach((url) => URL.revokeObjectURL(url));
    this.urls = [];
    let start = 0;
    const wasShown = this.tiles.some(({ id }) => id === this.selected);
    this.tiles = tiles.map((tile, index) => {
      const bytes = images.subarray(start, (start += tile.bytes));
      return { ...tile, bytes, index, button: tileButton(tile, index) };
    });
    const empty = element("p", { class: "empty", text: "No images here." });
    this.grid.replaceChildren(...(tiles.length ? this.tiles.map(({ button }) => button) : [empty]));
    this.tiles.forEach(({ button }) => this.observer.observe(button));
    this.color();
    this.mark(this.selected, { scroll: !wasShown }); // the selection may come before the tiles
  }

  /** Give a tile its picture when it comes near the visible part of the grid. */
  reveal(entries) {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      this.observer.unobserve(target);
      const image = target.querySelector("img");
      const url = URL.createObjectURL(new Blob([this.tiles[target.dataset.index].bytes]));
      this.urls.push(url);
      image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < SMALL));
      image.src = url;
    }
  }

  /** Put the theme's colours on borders, markers and the legend. */
  color() {
    const colors = currentPalette(this.palettes, this.root).groups;
    const glyphs = new Map(this.groups.map(({ index, glyph, words }) => [index, { glyph, words }]));
    for (const { group, caption, button } of this.tiles) {
      const { glyph, words } = glyphs.get(group) ?? { glyph: "", words: "" };
      const [frame, marker] = [button.querySelector(".frame"), button.querySelector(".marker")];
      frame.style.borderColor = colors[group];
      marker.style.color = colors[group];
      marker.textContent = glyph;
      button.setAttribute("aria-label", `${caption}, ${words}`);
    }
    const entries = this.groups.map(({ index, glyph, words }) => legendEntry(`${glyph} ${words}`, colors[index]));
    this.root.querySelector(".legend").replaceChildren(...entries);
  }

  /** Show what the server says is selected, unless the user has selected another since. */
  useReply({ heard, selected }) {
    if (this.outbox.acknowledge(heard)) this.mark(selected);
  }

  /** Show which tile is selected; the selected one, or else the first, is reached by Tab. */
  mark(id, { scroll = true } = {}) {
    this.selected = id;
    const selected = this.tiles.find((tile) => tile.id === id);
    for (const tile of this.tiles) {
      tile.button.setAttribute("aria-selected", String(tile === selected));
      tile.button.tabIndex = tile === (selected ?? this.tiles[0]) ? 0 : -1;
    }
    if (selected && scroll) scrollTo(this.grid, selected.button);
  }

  select(button) {
    if (!button) return;
    const { id } = this.tiles[button.dataset.index];
    this.mark(id);
    this.outbox.post(this.tell, "selected", id, { replace: true });
  }

  move(event) {
    const from = event.target.closest(".tile");
    if (!from || event.ctrlKey || event.metaKey || event.altKey) return;
    const index = Number(from.dataset.index);
    const columns = getComputedStyle(this.grid).gridTemplateColumns.split(" ").length;
    const last = this.tiles.length - 1;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -index, End: last - index };
    const wanted = index + (steps[event.key] ?? NaN);
    if (!(wanted >= 0 && wanted <= last)) return;
    event.preventDefault();
    event.stopPropagation();
    this.tiles[wanted].button.focus({ preventScroll: true });
    scrollTo(this.grid, this.tiles[wanted].button);
  }
}

function tileButton({ caption }, index) {
  const button = element("button", { class: "tile", role: "option", type: "button", "data-index": index, title: caption });
  const frame = element("span", { class: "frame" });
  frame.append(element("img", { alt: "" }), element("span", { class: "marker", "aria-hidden": "true" }));
  button.append(frame, element("span", { class: "caption", text: caption }));
  return button;
}

/** Scroll the grid, and only the grid, until the tile is inside. */
function scrollTo(grid, tile) {
  const [top, bottom] = [tile.offsetTop, tile.offsetTop + tile.offsetHeight];
  if (top < grid.scrollTop) grid.scrollTop = top - 4;
  else if (bottom > grid.scrollTop + grid.clientHeight) grid.scrollTop = bottom - grid.clientHeight + 4;
}
