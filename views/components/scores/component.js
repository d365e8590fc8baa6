// The scores of every dataset at one k and one threshold: one sentence, the histogram rows, the curves.
// The binned table for every k is here, so moving a slider asks the server nothing; letting go tells it.

const THRESHOLD_STEPS = 1000;
const LEVELS = { low: 0.5, high: 1 };
const COMMIT_DELAY = 250; // ms; a held arrow key is one choice, not thirty
const views = new WeakMap();

export default function (component) {
  const root = component.parentElement;
  if (!views.has(root)) views.set(root, new ScoresView(root));
  const view = views.get(root);
  view.update(component);
  return () => view.close();
}

class ScoresView {
  constructor(root) {
    this.root = root;
    this.find = (selector) => root.querySelector(selector);
    this.choice = { k: 0, kind: "id_kept", level: 0.95, threshold: 0 };
    this.outbox = new Outbox();
    this.isChoosing = false; // since the user moved something until that is told
    this.draw = oncePerFrame(() => this.redraw());
    this.observer = new ResizeObserver(this.draw);
    this.observer.observe(this.find(".plots"));
    this.ends = [];
    this.connect();
  }

  update({ data, setStateValue }) {
    this.tell = setStateValue;
    this.palettes = data.palettes;
    this.groups = data.groups;
    if (this.name !== data.channel) this.listen(data.channel);
    this.draw();
  }

  listen(name) {
    this.ends.forEach((end) => end());
    this.name = name;
    this.ends = [
      subscribe(`${name}.table`, (table) => this.useTable(table)),
      subscribe(`${name}.reply`, (reply) => this.useReply(reply)),
    ];
  }

  close() {
    this.observer.disconnect();
    this.ends.forEach((end) => end());
    views.delete(this.root);
  }

  connect() {
    const [k, threshold] = [this.find("input.k"), this.find("input.threshold")];
    k.addEventListener("input", () => this.choose({ k: k.valueAsNumber }));
    threshold.addEventListener("input", () => this.choose(this.fromSlider(threshold.valueAsNumber)));
    for (const slider of [k, threshold]) slider.addEventListener("change", () => this.commitSoon());
    for (const radio of this.root.querySelectorAll("input[name=rule]")) {
      radio.addEventListener("change", () => this.changeRule(radio.value));
    }
    for (const radio of this.root.querySelectorAll("input[name=curve]")) {
      radio.addEventListener("change", this.draw);
    }
    this.connectHistogram(this.find(".histogram"));
  }

  /** Dragging over the histogram moves the threshold to the score under the pointer. */
  connectHistogram(canvas) {
    const follow = (event) => {
      const { low, high } = this.dragSpan;
      const share = (event.offsetX - SIDES.left) / (canvas.clientWidth - SIDES.left - SIDES.right);
      this.choose({ kind: "value", threshold: low + Math.min(1, Math.max(0, share)) * (high - low) });
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.state || event.button) return;
      canvas.setPointerCapture(event.pointerId);
      this.dragSpan = scoreSpan(this.state);
      follow(event);
    });
    canvas.addEventListener("pointermove", (event) => this.dragSpan && follow(event));
    canvas.addEventListener("pointerup", () => {
      if (this.dragSpan) this.commitSoon();
      this.dragSpan = null;
    });
  }

  useTable(table) {
    this.table = table;
    this.hasWrong = table.wrong?.some((images) => images > 0) ?? false;
    this.find("input.k").max = table.ks;
    this.draw();
  }

  /** Take over what the server decided, unless the user has chosen again since. */
  useReply(reply) {
    if (!this.outbox.acknowledge(reply.heard) || this.isChoosing) return;
    this.choice = { ...this.choice, ...reply.choice };
    this.exact = reply.exact;
    this.aupr = { k: reply.choice.k, values: reply.exact?.aupr ?? [] };
    this.draw();
  }

  choose(change) {
    this.choice = { ...this.choice, ...change };
    this.isChoosing = true;
    this.exact = null;
    this.draw();
  }

  changeRule(kind) {
    this.choose({ kind, threshold: this.state.threshold });
    this.commitSoon();
  }

  fromSlider(position) {
    const share = position / THRESHOLD_STEPS;
    if (this.choice.kind !== "value") return { level: LEVELS.low + share * (LEVELS.high - LEVELS.low) };
    const { low, high } = scoreRange(this.state.edges);
    return { threshold: low + share * (high - low) };
  }

  toSlider() {
    if (this.choice.kind !== "value") {
      return (THRESHOLD_STEPS * (this.choice.level - LEVELS.low)) / (LEVELS.high - LEVELS.low);
    }
    const { low, high } = scoreRange(this.state.edges);
    return (THRESHOLD_STEPS * (this.state.threshold - low)) / (high - low);
  }

  commitSoon() {
    clearTimeout(this.commit);
    this.commit = setTimeout(() => {
      this.isChoosing = false;
      const choice = { ...this.choice, threshold: this.state.threshold };
      this.outbox.post(this.tell, "choice", choice, { replace: true });
    }, COMMIT_DELAY);
  }

  redraw() {
    if (!this.table || !this.choice.k || !this.root.isConnected) return;
    const colors = currentPalette(this.palettes, this.root);
    const font = getComputedStyle(this.find(".scores")).fontFamily;
    const kind = this.find("input[name=curve]:checked").value;
    const choice = { ...this.choice, k: Math.min(this.choice.k, this.table.ks) };
    this.state = evaluate(this.table, choice, this.told());
    addAreas(this.table, this.state, this.aupr);
    this.sizeCanvases();
    drawHistogram(this.find(".histogram"), this.state, colors, font);
    this.showLegend(colors);
    this.showControls();
    this.showWords(kind);
    this.showCurves(kind, colors, font);
  }

  /** What the server computed for exactly this choice, or null. */
  told() {
    if (!this.exact) return null;
    return { threshold: this.choice.threshold, flagged: this.exact.flagged };
  }

  sizeCanvases() {
    const height = histogramHeight(this.state.datasets.length);
    setHeight(this.find(".histogram"), height);
    setHeight(this.find(".rates"), ratesHeight(this.state, height));
  }

  showControls() {
    const [k, threshold] = [this.find("input.k"), this.find("input.threshold")];
    k.valueAsNumber = this.state.k;
    k.setAttribute("aria-valuetext", `k = ${this.state.k}`);
    this.find(".k-value").value = `k = ${this.state.k}`;
    threshold.valueAsNumber = this.toSlider();
    const shown = this.choice.kind === "value" ? signed(this.state.threshold) : percent(this.choice.level);
    threshold.setAttribute("aria-valuetext", shown);
    this.find(".threshold-value").value = shown;
    this.find(".threshold-name").textContent = SLIDER_NAMES[this.choice.kind];
    this.find(`input[name=rule][value="${this.choice.kind}"]`).checked = true;
    for (const [kind, side] of [["id_kept", "id"], ["ood_caught", "ood"]]) {
      this.find(`input[name=rule][value="${kind}"]`).disabled = !this.state[side].total;
    }
  }

  /** Draw the curves, or say in their place which images are missing. */
  showCurves(kind, colors, font) {
    const missing = missingWords(this.state, "curves");
    this.find(".missing").textContent = missing;
    for (const part of [".rates", ".curves"]) this.find(part).hidden = missing !== "";
    if (!missing) drawRates(this.find(".rates"), this.state, kind, colors, font);
  }

  /** Say what every colour and the hatching mean, and of which images nobody knows whether they are wrong. */
  showLegend(colors) {
    const entries = this.groups.map(({ glyph, words, index }) => [`${glyph} ${words}`, colors.groups[index]]);
    if (this.hasWrong) {
      entries.push(["hatched: class predicted wrongly", hatchedBackground(colors)]);
    }
    const drawn = JSON.stringify(entries);
    if (this.drawnLegend === drawn) return;
    this.drawnLegend = drawn;
    this.find(".legend").replaceChildren(...entries.map(([words, background]) => legendEntry(words, background)));
    this.find(".unknown").textContent = unknownWords(this.table.unknown);
  }

  showWords(kind) {
    const words = decisionWords(this.state);
    this.find(".decision").textContent = words;
    this.find(".conventions").textContent = conventionWords(this.state, conventionsOf(this.table, this.state, this.exact));
    this.find(".histogram").setAttribute("aria-label", `Score histogram. ${words}`);
    const curve = kind === "roc" ? "ROC curve" : "Precision and recall curve";
    this.find(".rates").setAttribute("aria-label", `${curve} with the point at the threshold. ${areasInWords(this.state, kind)}${words}`);
  }
}

/** The areas that the legend below the curves names, for those who do not see it. */
const areasInWords = ({ datasets }, kind) =>
  datasets.filter(({ areas }) => areas).map(({ areas, name }) => `${areas[kind]} ${name}. `).join("");

/** What the hatching leaves open. */
function unknownWords(images) {
  if (!images) return "";
  const which = images === 1 ? "1 ID image is" : `${count(images)} ID images are`;
  return `${which} of no class that the model knows: neither rightly nor wrongly classified, and never hatched.`;
}

const SLIDER_NAMES = {
  id_kept: "share of ID images kept",
  ood_caught: "share of OOD images caught",
  value: "threshold, as a score",
};

const scoreRange = (edges) => ({ low: edges[0], high: edges[edges.length - 1] });

const hatchedBackground = ({ muted, background }) =>
  `repeating-linear-gradient(135deg, ${muted} 0 3px, ${background} 3px 5px)`;

function setHeight(canvas, height) {
  const wanted = `${height}px`;
  if (canvas.style.height !== wanted) canvas.style.height = wanted;
}

/** One sentence: what the detector does at this k and threshold, with how many of how many. */
function decisionWords(state) {
  const { id, ood } = state;
  const about = state.exact ? "" : "≈ ";
  const share = (part, total) => `${about}${percent(part / total)}`;
  const parts = [`At k = ${state.k} and threshold ${signed(state.threshold)} the detector`];
  if (id.total) {
    const passed = id.total - id.flagged;
    parts.push(`keeps ${share(passed, id.total)} of ID images (${count(passed)} of ${count(id.total)})`);
  }
  if (id.total && ood.total) parts.push("and");
  if (ood.total) {
    parts.push(`catches ${share(ood.flagged, ood.total)} of OOD images (${count(ood.flagged)} of ${count(ood.total)})`);
  }
  return id.total || ood.total ? `${parts.join(" ")}.` : "There are no scores yet.";
}

/** Both conventions of "at 95 %" in words, with the numbers of images. */
function conventionWords(state, rates) {
  if (!rates) return missingWords(state, "rates at 95 %");
  const about = rates.exact ? "" : "≈ ";
  const at = `${Number((100 * rates.level).toFixed(1))} %`;
  return (
    `OOD passed when at least ${at} of ID is kept: ${about}${percent(rates.passedWhenKept)}. ` +
    `ID flagged when at least ${at} of OOD is caught: ${about}${percent(rates.flaggedWhenCaught)}. ` +
    `n = ${count(state.id.total)} ID and ${count(state.ood.total)} OOD images.`
  );
}
