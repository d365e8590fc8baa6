// What the binned table says at one k and one threshold. Counts are per bin; the threshold's own bin is shared
// out evenly, which is an estimate. At the table's own level the exact thresholds and counts are at hand.

/** The datasets at one k: counts per bin, wrongly classified counts per bin, totals. Row k - 1 of a table is k's. */
function datasetsAt(table, k) {
  const bins = table.bins;
  return table.datasets.map(({ name, ood }, index) => {
    const start = (index * table.ks + k - 1) * bins;
    const counts = table.counts.subarray(start, start + bins);
    return { name, ood, counts, wrong: table.wrong?.subarray(start, start + bins), total: sum(counts) };
  });
}

function edgesAt(table, k) {
  const width = table.bins + 1;
  return table.edges.subarray((k - 1) * width, k * width);
}

function sum(values) {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

/** All ID (or all OOD) datasets as one. */
function pooled(datasets, ood, bins) {
  const counts = new Float64Array(bins);
  for (const dataset of datasets) {
    if (dataset.ood === ood) for (let bin = 0; bin < bins; bin++) counts[bin] += dataset.counts[bin];
  }
  return { counts, total: sum(counts) };
}

/** How many of the counts have a score at or above the threshold. */
function flaggedOf(counts, edges, threshold) {
  let flagged = 0;
  for (let bin = counts.length - 1; bin >= 0 && edges[bin + 1] > threshold; bin--) {
    const inside = Math.min(1, (edges[bin + 1] - threshold) / (edges[bin + 1] - edges[bin]));
    flagged += counts[bin] * inside;
  }
  return flagged;
}

/** The lowest threshold that passes at least this share of the counts. */
function thresholdPassing(counts, edges, total, share) {
  let missing = share * total;
  for (let bin = 0; bin < counts.length; bin++) {
    if (counts[bin] > 0 && missing <= counts[bin]) {
      return edges[bin] + (missing / counts[bin]) * (edges[bin + 1] - edges[bin]);
    }
    missing -= counts[bin];
  }
  return edges[counts.length];
}

/** The threshold that a rule gives: "id_kept" and "ood_caught" at a level in [0, 1], or "value" as it is. */
function thresholdOf(choice, id, ood, edges) {
  if (choice.kind === "id_kept" && id.total) return thresholdPassing(id.counts, edges, id.total, choice.level);
  if (choice.kind === "ood_caught" && ood.total) {
    return thresholdPassing(ood.counts, edges, ood.total, 1 - choice.level);
  }
  return choice.threshold;
}

/** Rates at every bin edge from the highest score down: shares of ID and of OOD flagged. */
function ratesOf(dataset, id) {
  const bins = dataset.counts.length;
  const falseAlarms = new Float64Array(bins + 1);
  const caught = new Float64Array(bins + 1);
  for (let step = 1; step <= bins; step++) {
    falseAlarms[step] = falseAlarms[step - 1] + id.counts[bins - step] / id.total;
    caught[step] = caught[step - 1] + dataset.counts[bins - step] / dataset.total;
  }
  return { falseAlarms, caught };
}

function areaUnder(x, y) {
  let area = 0;
  for (let step = 1; step < x.length; step++) area += ((x[step] - x[step - 1]) * (y[step] + y[step - 1])) / 2;
  return area;
}

/** The exact threshold and flagged counts of a rule at the table's own level, or null. */
function exactAt(table, choice) {
  if (table.level === null || Math.abs(choice.level - table.level) > 1e-9 || choice.kind === "value") return null;
  const [thresholds, flagged] = {
    id_kept: [table.thresholdIdKept, table.flaggedAtIdKept],
    ood_caught: [table.thresholdOodCaught, table.flaggedAtOodCaught],
  }[choice.kind];
  const row = choice.k - 1;
  return { threshold: thresholds[row], flagged: table.datasets.map((_, index) => flagged[index * table.ks + row]) };
}

/** Everything that is drawn and said for a choice of k and threshold; exact tells whether it is an estimate. */
function evaluate(table, choice, told) {
  const { k } = choice;
  const datasets = datasetsAt(table, k);
  const edges = edgesAt(table, k);
  const sides = [pooled(datasets, false, table.bins), pooled(datasets, true, table.bins)];
  const exact = told ?? exactAt(table, choice);
  const threshold = exact?.threshold ?? thresholdOf(choice, ...sides, edges);
  datasets.forEach((dataset, index) => {
    dataset.flagged = exact?.flagged[index] ?? flaggedOf(dataset.counts, edges, threshold);
  });
  sides.forEach((side, ood) => {
    side.flagged = sum(datasets.filter((row) => row.ood === Boolean(ood)).map((row) => row.flagged));
  });
  const [id, ood] = sides;
  addRates(datasets, id);
  return { k, threshold, edges, datasets, id, ood, exact: exact !== null };
}

/** What to say where something compares both sides and one has no score; "" where both have some. */
function missingWords({ datasets, id, ood }, what) {
  if (id.total && ood.total) return "";
  const side = id.total ? "OOD" : "ID";
  const isGiven = datasets.some((dataset) => dataset.ood === (side === "OOD"));
  return isGiven ? `No ${side} image has a score, so there are no ${what}.` : `Add ${side} images to see the ${what}.`;
}

/** Give every OOD dataset its curve. */
function addRates(datasets, id) {
  for (const dataset of datasets) {
    if (dataset.ood && dataset.total && id.total) dataset.rates = ratesOf(dataset, id);
  }
}

/** Name the area under both curves of every OOD dataset, exact where the table or the server knows it. */
function addAreas(table, { datasets, id, k }, aupr) {
  const unknown = datasets.filter((dataset) => dataset.ood);
  unknown.forEach((dataset, index) => {
    if (!dataset.rates) return;
    const { falseAlarms, caught } = dataset.rates;
    const auroc = table.auroc?.[index * table.ks + k - 1];
    const told = aupr?.k === k ? (aupr.values[index] ?? undefined) : undefined;
    dataset.areas = {
      roc: inWords("AUROC", auroc, areaUnder(falseAlarms, caught)),
      pr: inWords("AUPR", told, averagePrecision(dataset, id)),
    };
  });
}

const inWords = (name, exact, estimate) => `${name} ${exact === undefined ? "≈ " : ""}${(exact ?? estimate).toFixed(3)}`;

/** The precision at every step down the bins, weighed by the OOD images that the step catches. */
function averagePrecision({ counts, total, rates }, id) {
  let area = 0;
  for (let step = 1; step < rates.caught.length; step++) {
    const hits = counts[counts.length - step];
    const [alarms, caught] = [rates.falseAlarms[step] * id.total, rates.caught[step] * total];
    if (hits) area += ((hits / total) * caught) / (alarms + caught);
  }
  return area;
}

/** Both conventions at a level, as shares in [0, 1]: told by the server, known at every k, or estimated. */
function conventionsOf(table, state, told) {
  const { id, ood, edges } = state;
  if (!id.total || !ood.total) return null;
  const level = told?.level ?? table.level ?? 0.95;
  if (told?.conventions) return { level, exact: true, ...told.conventions };
  if (table.level !== null) return { level, exact: true, ...knownConventions(table, state.k) };
  const kept = thresholdPassing(id.counts, edges, id.total, level);
  const caught = thresholdPassing(ood.counts, edges, ood.total, 1 - level);
  return {
    level,
    exact: false,
    passedWhenKept: 1 - flaggedOf(ood.counts, edges, kept) / ood.total,
    flaggedWhenCaught: flaggedOf(id.counts, edges, caught) / id.total,
  };
}

const knownConventions = (table, k) => ({
  passedWhenKept: table.passedWhenKept[k - 1],
  flaggedWhenCaught: table.flaggedWhenCaught[k - 1],
});
