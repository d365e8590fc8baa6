// Draws points into an image, pixel by pixel. No GPU is needed: a marker is a handful of pixels, and only the
// points in view are touched.

const DENSITY_FROM = 200000; // points in view
const DENSITY_CELL = 3; // CSS pixels
const ERRORS_SHOWN = 2000; // misflagged points drawn over a density picture at most
const ERROR_GROUPS = [3, 4]; // false alarms and misses, as in views/theme.py
const SHAPES = ["disc", "disc", "square", "cross", "diamond"];
const SIZES = [0.55, 1, 0.9, 1.5, 1.6]; // of a group's marker, relative; a bank image is a dot
const BORDER = 24; // device pixels around the image, so that a marker at the edge needs no test

/** Colours as the image holds them: 0xAABBGGRR, opaque. */
function packedColor(hex) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

/** Mix two packed colours; alpha 0 gives the first, 256 the second. */
function blend(under, over, alpha) {
  const rest = 256 - alpha;
  const redBlue = (((under & 0xff00ff) * rest + (over & 0xff00ff) * alpha) >>> 8) & 0xff00ff;
  const green = (((under & 0xff00) * rest + (over & 0xff00) * alpha) >>> 8) & 0xff00;
  return (0xff000000 | redBlue | green) >>> 0;
}

class Raster {
  constructor(canvas) {
    this.canvas = canvas;
    this.sprites = new Map();
  }

  /**
   * Draw the points in view: style has a packed color per sorted place, groupColors where groups have one each,
   * selected (1 per sorted place, or null), hidden groups, background and grey. Returns "points" or "density".
   */
  draw(index, camera, style) {
    this.startFrame(camera, style.background);
    const groups = SHAPES.map((_, group) => group).filter((group) => !style.hidden.has(group));
    const inView = groups.reduce((total, group) => total + index.countIn(group, camera.bounds), 0);
    const dense = inView > DENSITY_FROM;
    if (dense) this.drawDensity(index, camera, style, groups);
    const shown = dense ? groups.filter((group) => this.isFewErrors(index, camera, group)) : groups;
    for (const chosen of style.selected ? [0, 1] : [null]) {
      for (const group of shown) this.drawGroup(index, camera, style, group, chosen);
    }
    this.canvas.getContext("2d").putImageData(this.image, -BORDER, -BORDER);
    return dense ? "density" : "points";
  }

  isFewErrors(index, camera, group) {
    return ERROR_GROUPS.includes(group) && index.countIn(group, camera.bounds) <= ERRORS_SHOWN;
  }

  startFrame(camera, background) {
    this.ratio = globalThis.devicePixelRatio || 1;
    const [width, height] = [camera.width, camera.height].map((side) => Math.max(1, Math.round(side * this.ratio)));
    if (this.canvas.width !== width || this.canvas.height !== height || !this.image) {
      Object.assign(this.canvas, { width, height });
      this.image = new ImageData(width + 2 * BORDER, height + 2 * BORDER);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    this.pixels.fill(background);
  }

  /** Draw a group's points; chosen is null for all, 1 for the selected, 0 for the rest in grey. */
  drawGroup(index, camera, style, group, chosen) {
    const sprite = this.sprite(SHAPES[group], markerRadius(index.count, camera.zoomed) * SIZES[group] * this.ratio);
    const { pixels, ratio } = this;
    const stride = this.image.width;
    const [width, height] = [this.canvas.width, this.canvas.height];
    const scale = camera.scale * ratio;
    const [originX, originY] = camera.toScreen(0, 0).map((value) => value * ratio);
    const { x, y } = index;
    const { color, selected, grey } = style;
    index.runs(group, camera.bounds, (from, to) => {
      for (let place = from; place < to; place++) {
        if (chosen !== null && selected[place] !== chosen) continue;
        const left = Math.round(originX + x[place] * scale);
        const top = Math.round(originY - y[place] * scale);
        if (left < -8 || top < -8 || left >= width + 8 || top >= height + 8) continue;
        stamp(pixels, (top + BORDER) * stride + left + BORDER, sprite, stride, chosen === 0 ? grey : color[place]);
      }
    });
  }

  /** A marker as offsets from its centre and how opaque each is. */
  sprite(shape, radius) {
    const size = Math.min(BORDER - 10, Math.max(1, radius));
    const name = `${shape} ${size.toFixed(1)}`;
    if (!this.sprites.has(name)) this.sprites.set(name, drawSprite(shape, size));
    return this.sprites.get(name);
  }

  /** Fill cells by how many points they hold (log scale), in the points' mean colour. */
  drawDensity(index, camera, style, groups) {
    const columns = Math.ceil(camera.width / DENSITY_CELL);
    const rows = Math.ceil(camera.height / DENSITY_CELL);
    const sums = { red: 0, green: 0, blue: 0, held: 0 };
    for (const part of Object.keys(sums)) sums[part] = new Float32Array(columns * rows);
    for (const group of groups) {
      const add = style.groupColors ? addOneColor : addToCells;
      add(sums, columns, rows, index, camera, style, group);
    }
    this.paintCells(cellColors(sums, style.background), columns);
  }

  /** Paint one line of pixels per row of cells, then copy it down to the row's other lines. */
  paintCells(colors, columns) {
    const stride = this.image.width;
    const cellOf = (pixel) => Math.floor(pixel / this.ratio / DENSITY_CELL);
    const across = Uint32Array.from({ length: this.canvas.width }, (_, left) => cellOf(left));
    let painted = -1;
    for (let top = 0; top < this.canvas.height; top++) {
      const start = (top + BORDER) * stride + BORDER;
      if (cellOf(top) === painted) {
        this.pixels.copyWithin(start, start - stride, start - stride + across.length);
        continue;
      }
      painted = cellOf(top);
      for (let left = 0; left < across.length; left++) {
        this.pixels[start + left] = colors[painted * columns + across[left]];
      }
    }
  }
}

function cellColors({ red, green, blue, held }, background) {
  const most = Math.log1p(held.reduce((highest, value) => Math.max(highest, value), 1));
  return Uint32Array.from(held, (points, cell) => {
    if (!points) return background;
    const mean = (255 << 24) | ((blue[cell] / points) << 16) | ((green[cell] / points) << 8) | (red[cell] / points);
    return blend(background, mean >>> 0, Math.round(56 + (200 * Math.log1p(points)) / most));
  });
}

/** Call add(cell, place) for every point of a group that is in view. */
function eachInView(columns, rows, index, camera, group, add) {
  const scale = camera.scale / DENSITY_CELL;
  const [originX, originY] = camera.toScreen(0, 0).map((value) => value / DENSITY_CELL);
  const { x, y } = index;
  index.runs(group, camera.bounds, (from, to) => {
    for (let place = from; place < to; place++) {
      const column = Math.floor(originX + x[place] * scale);
      const row = Math.floor(originY - y[place] * scale);
      if (column >= 0 && row >= 0 && column < columns && row < rows) add(row * columns + column, place);
    }
  });
}

function addToCells(sums, columns, rows, index, camera, { color, selected, grey }, group) {
  const { red, green, blue, held } = sums;
  eachInView(columns, rows, index, camera, group, (cell, place) => {
    const shown = selected && !selected[place] ? grey : color[place];
    red[cell] += shown & 255;
    green[cell] += (shown >>> 8) & 255;
    blue[cell] += (shown >>> 16) & 255;
    held[cell] += 1;
  });
}

/** As addToCells, for a group whose points all have one colour, or grey: count first, multiply after. */
function addOneColor(sums, columns, rows, index, camera, { groupColors, selected, grey }, group) {
  const shown = new Uint32Array(columns * rows);
  const rest = new Uint32Array(selected ? columns * rows : 0);
  eachInView(columns, rows, index, camera, group, (cell, place) => {
    if (!selected || selected[place]) shown[cell]++;
    else rest[cell]++;
  });
  addCounts(sums, shown, groupColors[group]);
  addCounts(sums, rest, grey);
}

function addCounts({ red, green, blue, held }, counts, color) {
  const parts = [color & 255, (color >>> 8) & 255, (color >>> 16) & 255];
  for (let cell = 0; cell < counts.length; cell++) {
    const points = counts[cell];
    if (!points) continue;
    red[cell] += points * parts[0];
    green[cell] += points * parts[1];
    blue[cell] += points * parts[2];
    held[cell] += points;
  }
}

function stamp(pixels, centre, sprite, stride, color) {
  const { right, down, alpha } = sprite;
  for (let part = 0; part < alpha.length; part++) {
    const at = centre + down[part] * stride + right[part];
    pixels[at] = alpha[part] > 250 ? color : blend(pixels[at], color, alpha[part]);
  }
}

function drawSprite(shape, radius) {
  const reach = Math.ceil(radius) + 1;
  const side = 2 * reach + 1;
  const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.translate(reach + 0.5, reach + 0.5);
  drawShape(context, shape, radius);
  const { data } = context.getImageData(0, 0, side, side);
  const sprite = { right: [], down: [], alpha: [] };
  for (let pixel = 0; pixel < side * side; pixel++) {
    const alpha = data[4 * pixel + 3];
    if (alpha < 12) continue;
    sprite.right.push((pixel % side) - reach);
    sprite.down.push(Math.floor(pixel / side) - reach);
    sprite.alpha.push(alpha);
  }
  return { right: Int32Array.from(sprite.right), down: Int32Array.from(sprite.down), alpha: Uint8Array.from(sprite.alpha) };
}

/** Draw a marker around the origin, in the context's current colours. */
function drawShape(context, shape, radius) {
  context.beginPath();
  if (shape === "disc") context.arc(0, 0, radius, 0, 2 * Math.PI);
  if (shape === "square") context.rect(-radius, -radius, 2 * radius, 2 * radius);
  if (shape === "disc" || shape === "square") return context.fill();
  context.lineWidth = Math.max(1.4, radius * 0.45);
  const arm = radius - context.lineWidth / 2;
  const corners = shape === "cross" ? [[-arm, -arm], [arm, arm], null, [-arm, arm], [arm, -arm]] : [[0, -arm], [arm, 0], [0, arm], [-arm, 0]];
  let pen = false;
  for (const corner of corners) {
    if (corner && pen) context.lineTo(...corner);
    else if (corner) context.moveTo(...corner);
    pen = corner !== null;
  }
  if (shape === "diamond") context.closePath();
  return context.stroke();
}

/** A marker's radius in CSS pixels: smaller the more points there are, growing as one zooms in. */
function markerRadius(count, zoomed) {
  const resting = count < 2000 ? 4 : count < 20000 ? 3 : count < 100000 ? 2 : 1.5;
  return Math.min(6, resting * Math.max(1, zoomed) ** 0.3);
}
