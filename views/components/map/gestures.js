// Pointer, wheel, keys and buttons of the map: what each of them does to the view.

const CLICK_SLIP = 4; // CSS pixels that a click may move
const WHEEL_RATE = 0.0015; // zoom per wheel unit, logarithmic
const KEY_STEP = 0.12; // of the width or height
const KEY_ZOOM = 1.4;

function connectPointer(view) {
  const { stage } = view;
  stage.addEventListener("pointerdown", (event) => startDrag(view, event));
  stage.addEventListener("pointermove", (event) => (view.drag ? continueDrag(view, event) : hoverAt(view, event)));
  stage.addEventListener("pointerup", (event) => endDrag(view, event));
  stage.addEventListener("pointercancel", () => dropDrag(view));
  stage.addEventListener("pointerleave", () => view.drag || view.hover(-1));
  stage.addEventListener("wheel", (event) => turnWheel(view, event), { passive: false });
}

function placeOn(view, event) {
  const box = view.stage.getBoundingClientRect();
  return [event.clientX - box.left - view.stage.clientLeft, event.clientY - box.top - view.stage.clientTop];
}

function hoverAt(view, event) {
  if (view.isAiming) view.stopAiming();
  view.hover(view.pointAt(...placeOn(view, event)));
}

function startDrag(view, event) {
  if (event.button !== 0) return;
  view.isAiming = false;
  const at = placeOn(view, event);
  view.stage.setPointerCapture(event.pointerId);
  const mode = event.shiftKey ? "lasso" : view.find("input[name=mode]:checked").value;
  view.drag = { mode, start: at, last: at, far: false };
  view.outline = mode === "pan" ? null : [at];
}

function continueDrag(view, event) {
  const { drag } = view;
  const at = placeOn(view, event);
  drag.far ||= Math.hypot(at[0] - drag.start[0], at[1] - drag.start[1]) > CLICK_SLIP;
  if (drag.far && drag.mode === "pan") view.move((camera) => camera.pan(at[0] - drag.last[0], at[1] - drag.last[1]));
  if (drag.mode === "lasso") view.outline.push(at);
  if (drag.mode === "box") view.outline = boxBetween(drag.start, at);
  drag.last = at;
  view.drawOver();
}

const boxBetween = ([left, top], [right, bottom]) => [[left, top], [right, top], [right, bottom], [left, bottom]];

function endDrag(view, event) {
  const { drag, outline } = view;
  if (!drag) return;
  dropDrag(view);
  if (!drag.far) clickAt(view, placeOn(view, event));
  else if (outline) view.select(outline);
}

function dropDrag(view) {
  view.drag = null;
  view.outline = null;
  view.drawOver();
}

function clickAt(view, at) {
  const point = view.pointAt(...at);
  if (point >= 0) view.tell("clicked", point);
}

/** The wheel zooms once the map was clicked, or with Ctrl; otherwise it scrolls the page. */
function turnWheel(view, event) {
  if (!event.ctrlKey && view.root.activeElement !== view.stage) return;
  event.preventDefault();
  const rate = event.deltaMode === 1 ? 20 * WHEEL_RATE : WHEEL_RATE;
  view.move((camera) => camera.zoom(Math.exp(-event.deltaY * rate), ...placeOn(view, event)));
}

const KEYS = {
  ArrowLeft: (camera) => camera.pan(KEY_STEP * camera.width, 0),
  ArrowRight: (camera) => camera.pan(-KEY_STEP * camera.width, 0),
  ArrowUp: (camera) => camera.pan(0, KEY_STEP * camera.height),
  ArrowDown: (camera) => camera.pan(0, -KEY_STEP * camera.height),
  "+": (camera) => camera.zoom(KEY_ZOOM),
  "=": (camera) => camera.zoom(KEY_ZOOM),
  "-": (camera) => camera.zoom(1 / KEY_ZOOM),
};

/** Keys move the map under a cross in its middle: the image nearest to that is named, Enter opens it. */
function connectKeys(view) {
  view.stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {
      Escape: () => view.clear(),
      0: () => showAll(view),
      Home: () => showAll(view),
      Enter: () => view.pointAtMiddle() >= 0 && view.tell("clicked", view.pointAtMiddle()),
      " ": () => view.select(boxBetween([0, 0], [view.camera.width, view.camera.height])),
    }[event.key];
    if (act) act();
    else if (KEYS[event.key]) view.move(KEYS[event.key]);
    else return;
    if (event.key !== "Escape") view.aim();
    event.preventDefault();
    event.stopPropagation();
  });
  view.stage.addEventListener("focus", () => view.stage.matches(":focus-visible") && view.aim());
  view.stage.addEventListener("blur", () => view.stopAiming());
}

function showAll(view) {
  if (view.index) view.move((camera) => camera.fit(view.index.box));
}

function connectBar(view) {
  view.find(".in").addEventListener("click", () => view.move(KEYS["+"]));
  view.find(".out").addEventListener("click", () => view.move(KEYS["-"]));
  view.find(".fit").addEventListener("click", () => showAll(view));
  for (const radio of view.root.querySelectorAll("input[name=mode]")) {
    radio.addEventListener("change", () => (view.stage.dataset.mode = radio.value));
  }
}
