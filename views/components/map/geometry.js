// Where points are: the camera between map and screen, and an index that finds the points of a region.

const CELLS = 128; // per side

/** Points sorted by group, then by grid cell, so that a region of a group is a few runs of neighbours. */
class PointIndex {
  constructor(positions, groups, groupCount) {
    this.count = groups.length;
    this.groupCount = groupCount;
    this.box = boundingBox(positions);
    const keys = this.keysOf(positions, groups);
    this.starts = new Uint32Array(groupCount * CELLS * CELLS + 1);
    for (const key of keys) this.starts[key + 1]++;
    for (let key = 1; key < this.starts.length; key++) this.starts[key] += this.starts[key - 1];
    this.sort(positions, groups, keys);
  }

  keysOf(positions, groups) {
    const keys = new Uint32Array(this.count);
    for (let point = 0; point < this.count; point++) {
      const cell = this.row(positions[2 * point + 1]) * CELLS + this.column(positions[2 * point]);
      keys[point] = groups[point] * CELLS * CELLS + cell;
    }
    return keys;
  }

  sort(positions, groups, keys) {
    const next = this.starts.slice();
    this.order = new Uint32Array(this.count); // sorted place -> point
    this.x = new Float32Array(this.count);
    this.y = new Float32Array(this.count);
    for (let point = 0; point < this.count; point++) {
      const place = next[keys[point]]++;
      this.order[place] = point;
      this.x[place] = positions[2 * point];
      this.y[place] = positions[2 * point + 1];
    }
  }

  column(x) {
    return cellAt(x, this.box.left, this.box.width);
  }

  row(y) {
    return cellAt(y, this.box.bottom, this.box.height);
  }

  /** Sorted places of a group, from and to; with every group, all places are covered once. */
  group(group) {
    return [this.starts[group * CELLS * CELLS], this.starts[(group + 1) * CELLS * CELLS]];
  }

  /** Call visit(from, to) with runs of sorted places that hold every point of the group in the bounds. */
  runs(group, bounds, visit) {
    const [first, last] = [this.column(bounds.left), this.column(bounds.right)];
    const top = this.row(bounds.top);
    for (let row = this.row(bounds.bottom); row <= top; row++) {
      const base = group * CELLS * CELLS + row * CELLS;
      const [from, to] = [this.starts[base + first], this.starts[base + last + 1]];
      if (to > from) visit(from, to);
    }
  }

  countIn(group, bounds) {
    let total = 0;
    this.runs(group, bounds, (from, to) => (total += to - from));
    return total;
  }

  /** The sorted place of the point nearest to (x, y) within the reach, later groups first among equals; or -1. */
  nearest(x, y, reach, isHidden) {
    const bounds = { left: x - reach, right: x + reach, bottom: y - reach, top: y + reach };
    let [found, best] = [-1, reach * reach];
    for (let group = 0; group < this.groupCount; group++) {
      if (isHidden(group)) continue;
      this.runs(group, bounds, (from, to) => {
        for (let place = from; place < to; place++) {
          const distance = (this.x[place] - x) ** 2 + (this.y[place] - y) ** 2;
          if (distance <= best) [found, best] = [place, distance];
        }
      });
    }
    return found;
  }
}

function boundingBox(positions) {
  let [left, right, bottom, top] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let at = 0; at < positions.length; at += 2) {
    const [x, y] = [positions[at], positions[at + 1]];
    if (x < left) left = x;
    if (x > right) right = x;
    if (y < bottom) bottom = y;
    if (y > top) top = y;
  }
  if (left > right) [left, right, bottom, top] = [0, 1, 0, 1];
  return { left, bottom, width: right - left || 1, height: top - bottom || 1 };
}

function cellAt(value, start, span) {
  return Math.max(0, Math.min(CELLS - 1, Math.floor(((value - start) / span) * CELLS)));
}

/** Maps between the map's coordinates, y up, and CSS pixels, y down. */
class Camera {
  constructor() {
    Object.assign(this, { x: 0, y: 0, scale: 1, fitted: 1, width: 1, height: 1 });
  }

  resize(width, height) {
    Object.assign(this, { width, height });
  }

  fit(box) {
    this.fitted = 0.92 * Math.min(this.width / box.width, this.height / box.height);
    this.scale = this.fitted;
    this.x = box.left + box.width / 2;
    this.y = box.bottom + box.height / 2;
  }

  toScreen(x, y) {
    return [(x - this.x) * this.scale + this.width / 2, (this.y - y) * this.scale + this.height / 2];
  }

  toMap(left, top) {
    return [(left - this.width / 2) / this.scale + this.x, this.y - (top - this.height / 2) / this.scale];
  }

  pan(right, down) {
    this.x -= right / this.scale;
    this.y += down / this.scale;
  }

  /** Zoom by a factor, keeping what lies under a place on the screen there. */
  zoom(factor, left = this.width / 2, top = this.height / 2) {
    const [x, y] = this.toMap(left, top);
    this.scale = Math.min(Math.max(this.scale * factor, this.fitted / 4), this.fitted * 4000);
    const [movedX, movedY] = this.toMap(left, top);
    this.x += x - movedX;
    this.y += y - movedY;
  }

  get zoomed() {
    return this.scale / this.fitted;
  }

  get bounds() {
    const [left, top] = this.toMap(0, 0);
    const [right, bottom] = this.toMap(this.width, this.height);
    return { left, right, bottom, top };
  }
}

/** A drawn outline with at most this many corners, evenly thinned. */
function thinned(corners, most) {
  if (corners.length <= most) return corners;
  return Array.from({ length: most }, (_, index) => corners[Math.floor((index * corners.length) / most)]);
}

/** The area that an outline in pixels encloses. */
function enclosed(corners) {
  let twice = 0;
  corners.forEach(([x, y], index) => {
    const [nextX, nextY] = corners[(index + 1) % corners.length];
    twice += x * nextY - nextX * y;
  });
  return Math.abs(twice) / 2;
}
