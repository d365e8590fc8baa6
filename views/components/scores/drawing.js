// Draws the histogram rows and the curves of one evaluated state on two canvases.

const ROW_HEIGHT = 84;
const TITLE_HEIGHT = 20;
const AXIS_HEIGHT = 44;
const NAME_HEIGHT = 20; // of a curve's line in the legend
const SHOWN_BINS = 120;
const SIDES = { left: 8, right: 12 };
const DASHES = [[], [8, 4], [2, 3], [8, 3, 2, 3], [14, 4], [14, 3, 2, 3]];
const PASSED = { id: 1, ood: 4 }; // positions in the palette's groups: the drawing order of views/theme.py
const FLAGGED = { id: 3, ood: 2 };

const histogramHeight = (datasets) => Math.max(1, datasets) * (ROW_HEIGHT + TITLE_HEIGHT) + AXIS_HEIGHT;

/** Where the histogram's scores lie: from the lowest to the highest bin that holds anything. */
function scoreSpan(state) {
  const { edges, datasets } = state;
  const holds = (bin) => datasets.some(({ counts }) => counts[bin] > 0);
  let [first, last] = [0, edges.length - 2];
  while (first < last && !holds(first)) first++;
  while (last > first && !holds(last)) last--;
  const [low, high] = [Math.min(edges[first], state.threshold), Math.max(edges[last + 1], state.threshold)];
  const margin = 0.02 * (high - low) || 1;
  return { low: low - margin, high: high + margin };
}

function horizontal(span, width) {
  const scale = (width - SIDES.left - SIDES.right) / (span.high - span.low);
  return (score) => SIDES.left + (score - span.low) * scale;
}

function drawHistogram(canvas, state, colors, font) {
  const { context, width, height } = fitCanvas(canvas);
  const x = horizontal(scoreSpan(state), width);
  context.font = `13px ${font}`;
  state.datasets.forEach((dataset, index) => {
    const top = index * (ROW_HEIGHT + TITLE_HEIGHT);
    drawBars(context, state, dataset, { x, top: top + TITLE_HEIGHT, width }, colors);
    drawRowTitle(context, dataset, top, width, colors);
    context.fillStyle = colors.accent;
    context.fillRect(x(state.threshold) - 1, top + TITLE_HEIGHT, 2, ROW_HEIGHT);
  });
  drawScoreAxis(context, x, scoreSpan(state), { width, height }, colors);
  drawHandle(context, x(state.threshold), height - AXIS_HEIGHT, colors);
}

function drawBars(context, state, dataset, box, colors) {
  const kind = dataset.ood ? "ood" : "id";
  const bars = groupBins(dataset, state.edges);
  const peak = bars.reduce((highest, bar) => Math.max(highest, bar.all / bar.span), 0) || 1;
  const cut = box.x(state.threshold);
  for (const [from, to, color] of [
    [0, cut, colors.groups[PASSED[kind]]],
    [cut, box.width, colors.groups[FLAGGED[kind]]],
  ]) {
    context.save();
    context.beginPath();
    context.rect(from, box.top, Math.max(0, to - from), ROW_HEIGHT);
    context.clip();
    fillBars(context, bars, "all", { ...box, peak }, color);
    if (dataset.wrong) fillBars(context, bars, "wrong", { ...box, peak }, hatching(context, colors.background));
    context.restore();
  }
  context.fillStyle = colors.muted;
  context.fillRect(SIDES.left, box.top + ROW_HEIGHT - 1, box.width - SIDES.left - SIDES.right, 1);
}

/** Join neighbouring bins so that about SHOWN_BINS remain. */
function groupBins(dataset, edges) {
  const { counts, wrong } = dataset;
  const joined = Math.max(1, Math.round(counts.length / SHOWN_BINS));
  const bars = [];
  for (let start = 0; start < counts.length; start += joined) {
    const end = Math.min(start + joined, counts.length);
    const bar = { low: edges[start], high: edges[end], span: edges[end] - edges[start], all: 0, wrong: 0 };
    for (let bin = start; bin < end; bin++) {
      bar.all += counts[bin];
      bar.wrong += wrong?.[bin] ?? 0;
    }
    if (bar.all && bar.span > 0) bars.push(bar);
  }
  return bars;
}

function fillBars(context, bars, part, { x, top, peak }, style) {
  context.fillStyle = style;
  for (const bar of bars) {
    if (!bar[part]) continue;
    const height = Math.max(1, ((ROW_HEIGHT - 6) * bar[part]) / bar.span / peak);
    const left = Math.round(x(bar.low));
    context.fillRect(left, top + ROW_HEIGHT - height, Math.max(1, Math.round(x(bar.high)) - left), height);
  }
}

const hatchings = new Map();

function hatching(context, color) {
  if (!hatchings.has(color)) {
    const tile = Object.assign(document.createElement("canvas"), { width: 6, height: 6 });
    const lines = tile.getContext("2d");
    lines.strokeStyle = color;
    lines.lineWidth = 2;
    for (const shift of [-6, 0, 6]) {
      lines.moveTo(shift, 6);
      lines.lineTo(shift + 6, 0);
    }
    lines.stroke();
    hatchings.set(color, context.createPattern(tile, "repeat"));
  }
  return hatchings.get(color);
}

function drawRowTitle(context, dataset, top, width, colors) {
  const { flagged, total } = dataset;
  const [glyph, found, share] = dataset.ood
    ? ["◇", total - flagged, "passed (misses)"]
    : ["✕", flagged, "flagged (false alarms)"];
  const result = total ? `${glyph} ${percent(found / total)} ${share}` : "no image has a score";
  context.textBaseline = "middle";
  context.textAlign = "right";
  context.fillStyle = colors.groups[dataset.ood ? PASSED.ood : FLAGGED.id];
  context.fillText(result, width - SIDES.right, top + TITLE_HEIGHT / 2);
  const room = width - SIDES.left - SIDES.right - context.measureText(result).width - 12;
  context.textAlign = "left";
  context.fillStyle = colors.text;
  context.fillText(fitted(context, `${dataset.name} (n = ${count(total)})`, room), SIDES.left, top + TITLE_HEIGHT / 2);
}

/** The text, cut with "…" where it is wider than the room. */
function fitted(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let [low, high] = [0, text.length];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (context.measureText(`${text.slice(0, middle)}…`).width <= room) low = middle;
    else high = middle - 1;
  }
  return `${text.slice(0, low)}…`;
}

function drawScoreAxis(context, x, span, { width, height }, colors) {
  const top = height - AXIS_HEIGHT;
  context.textBaseline = "top";
  context.textAlign = "center";
  for (const tick of niceTicks(span.low, span.high, Math.max(2, width / 90))) {
    const at = x(tick);
    if (at < 16 || at > width - 16) continue;
    context.fillStyle = colors.muted;
    context.fillRect(at, top, 1, 4);
    context.fillText(signed(tick, digitsFor(span)), at, top + 6);
  }
  context.fillStyle = colors.text;
  context.fillText(fitted(context, "score (higher = more OOD)", width), width / 2, top + 26);
}

const digitsFor = ({ low, high }) => Math.max(0, Math.min(6, 1 - Math.floor(Math.log10(high - low || 1))));

function drawHandle(context, at, height, colors) {
  context.fillStyle = colors.accent;
  context.beginPath();
  context.arc(at, height, 5, 0, 2 * Math.PI);
  context.fill();
}

/** As high as the histogram, but for the names of the curves, which stand below the axis. */
const ratesHeight = ({ datasets }, height) => Math.max(height, 300 + NAME_HEIGHT * datasets.filter(({ rates }) => rates).length);

/** Draw one ROC or precision-recall curve per OOD dataset, with the point at the threshold. */
function drawRates(canvas, state, kind, colors, font) {
  const { context, width, height } = fitCanvas(canvas);
  const shown = state.datasets.filter((dataset) => dataset.rates);
  const box = { left: 52, top: 8, width: width - 64, height: height - 56 - NAME_HEIGHT * shown.length };
  context.font = `13px ${font}`;
  drawRateAxes(context, box, kind, colors);
  shown.forEach((dataset, index) => drawCurve(context, box, state, dataset, index, kind, colors));
  drawCurveNames(context, box, shown, kind, colors);
}

function drawRateAxes(context, box, kind, colors) {
  const [across, up] = kind === "roc" ? ["ID flagged", "OOD caught"] : ["OOD caught (recall)", "OOD among flagged (precision)"];
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    const [x, y] = place(box, share, share);
    context.fillStyle = colors.grid;
    context.fillRect(x, box.top, 1, box.height);
    context.fillRect(box.left, y, box.width, 1);
    context.fillStyle = colors.muted;
    context.textAlign = share === 1 ? "right" : "center";
    context.textBaseline = "top";
    context.fillText(`${100 * share} %`, share === 1 ? x + 10 : x, box.top + box.height + 6);
    context.textAlign = "right";
    context.textBaseline = "middle";
    if (share > 0) context.fillText(`${100 * share}`, box.left - 6, y);
  }
  context.fillStyle = colors.text;
  context.textAlign = "center";
  context.fillText(across, box.left + box.width / 2, box.top + box.height + 36);
  context.save();
  context.translate(12, box.top + box.height / 2);
  context.rotate(-Math.PI / 2);
  context.fillText(`${up}, %`, 0, 0);
  context.restore();
}

const place = (box, x, y) => [box.left + x * box.width, box.top + (1 - y) * box.height];

function drawCurve(context, box, state, dataset, index, kind, colors) {
  const { falseAlarms, caught } = dataset.rates;
  const color = colors.series[index % colors.series.length];
  const point = (alarms, hits) => ratePoint(alarms, hits, kind, state.id.total, dataset.total);
  context.strokeStyle = color;
  context.lineWidth = 2;
  context.setLineDash(DASHES[index % DASHES.length]);
  context.beginPath();
  for (let step = 0; step < caught.length; step++) {
    const where = point(falseAlarms[step], caught[step]);
    if (where) context.lineTo(...place(box, ...where));
  }
  context.stroke();
  context.setLineDash([]);
  const now = point(state.id.flagged / state.id.total, dataset.flagged / dataset.total);
  if (now) drawOperatingPoint(context, place(box, ...now), color, colors.accent);
}

/** Where rates lie on the chart: ROC as they are, otherwise recall and precision; null if nothing is flagged. */
function ratePoint(falseAlarms, caught, kind, idTotal, oodTotal) {
  if (kind === "roc") return [falseAlarms, caught];
  const [alarms, hits] = [falseAlarms * idTotal, caught * oodTotal];
  return alarms + hits > 0 ? [caught, hits / (alarms + hits)] : null;
}

function drawOperatingPoint(context, [x, y], color, accent) {
  context.beginPath();
  context.arc(x, y, 6, 0, 2 * Math.PI);
  context.fillStyle = color;
  context.strokeStyle = accent;
  context.lineWidth = 3;
  context.fill();
  context.stroke();
}

/** Name the curves below the axis, where no curve runs. */
function drawCurveNames(context, box, datasets, kind, colors) {
  const left = box.left;
  const top = box.top + box.height + 48 + NAME_HEIGHT / 2;
  context.textAlign = "left";
  context.textBaseline = "middle";
  datasets.forEach((dataset, index) => {
    const y = top + NAME_HEIGHT * index;
    context.strokeStyle = colors.series[index % colors.series.length];
    context.lineWidth = 2;
    context.setLineDash(DASHES[index % DASHES.length]);
    context.beginPath();
    context.moveTo(left, y);
    context.lineTo(left + 26, y);
    context.stroke();
    context.setLineDash([]);
    context.fillStyle = colors.text;
    const room = box.left + box.width - left - 36;
    context.fillText(fitted(context, `${dataset.areas[kind]} ${dataset.name}`, room), left + 32, y);
  });
}
