// What lies over the points: the ring, the lines to true neighbours, the outline that is being drawn.

const RING = 9; // CSS pixels
const CROSS = 10;

function drawOverlay(canvas, camera, { hovered, links, outline, isAiming }, palette) {
  const { context } = fitCanvas(canvas);
  if (links) drawLinks(context, camera, links, palette);
  if (hovered) drawRing(context, camera.toScreen(...hovered), RING, palette);
  if (outline?.length > 1) drawOutline(context, outline, palette);
  if (isAiming) drawCross(context, camera.width / 2, camera.height / 2, palette);
}

function drawCross(context, left, top, palette) {
  for (const [color, width] of [[palette.background, 5], [palette.accent, 2]]) {
    context.fillStyle = color;
    for (const [x, y] of [[-CROSS, 0], [CROSS, 0]]) context.fillRect(left + x - CROSS / 2, top + y - width / 2, CROSS, width);
    for (const [x, y] of [[0, -CROSS], [0, CROSS]]) context.fillRect(left + x - width / 2, top + y - CROSS / 2, width, CROSS);
  }
}

function drawRing(context, [left, top], radius, palette) {
  for (const [color, width] of [[palette.background, 5], [palette.text, 2]]) {
    context.strokeStyle = color;
    context.lineWidth = width;
    context.beginPath();
    context.arc(left, top, radius, 0, 2 * Math.PI);
    context.stroke();
  }
}

/** Lines from the clicked point to its true neighbours: dashed where they lie far away on the map. */
function drawLinks(context, camera, { from, to, far }, palette) {
  const start = camera.toScreen(...from);
  far.forEach((isFar, index) => {
    const end = camera.toScreen(to[2 * index], to[2 * index + 1]);
    context.setLineDash(isFar ? [6, 5] : []);
    for (const [color, width] of [[palette.background, 4], [palette.accent, 1.8]]) {
      context.strokeStyle = color;
      context.lineWidth = width;
      context.beginPath();
      context.moveTo(...start);
      context.lineTo(...end);
      context.stroke();
    }
    context.setLineDash([]);
    drawRing(context, end, 5, palette);
  });
  drawRing(context, start, RING + 2, palette);
}

function drawOutline(context, outline, palette) {
  context.beginPath();
  outline.forEach(([left, top]) => context.lineTo(left, top));
  context.closePath();
  context.globalAlpha = 0.12;
  context.fillStyle = palette.accent;
  context.fill();
  context.globalAlpha = 1;
  context.setLineDash([5, 4]);
  context.strokeStyle = palette.accent;
  context.lineWidth = 2;
  context.stroke();
  context.setLineDash([]);
}
