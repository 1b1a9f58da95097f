// What the player draws: two clips with a wipe between them, or all of them in a grid.

/**
 * What the server says of a comparison: `names.length` clips of `width` x `height` pixels, each
 * `below` pixels under the one before in one video, so that they cannot run apart; `frames` of them
 * at `fps`; whether there is `sound`.
 * @typedef {{width: number, height: number, below: number, frames: number, fps: number,
 *   names: string[], sound: boolean}} Clip
 */

const LABEL = 14; // pixels, as seen

/** The part of a clip, in pixels of the video, that a view shows. */
function partOf(index, clip, view) {
  return [
    view.x * clip.width,
    view.y * clip.height + index * clip.below,
    clip.width / view.zoom,
    clip.height / view.zoom,
  ];
}

/** Draws one clip to the left of `share`, 0..1, of the canvas and another to the right of it. */
export function drawWipe(canvas, video, clip, { left, right, share, view }) {
  fit(canvas, clip.width, clip.height);
  const edge = Math.round(clip.width * share);
  const pen = penOf(canvas, view);
  for (const [index, from, to] of [[left, 0, edge], [right, edge, clip.width]]) {
    if (from === to) continue;
    const [x, y, width, height] = partOf(index, clip, view);
    const across = width / clip.width;
    pen.drawImage(
      video, x + from * across, y, (to - from) * across, height, from, 0, to - from, clip.height,
    );
  }
}

/** Draws all clips in a grid, with their names; a pixel of the canvas is seen `scale` large. */
export function drawGrid(canvas, video, clip, { columns, rows, scale, view }) {
  fit(canvas, columns * clip.width, rows * clip.height);
  const pen = penOf(canvas, view);
  const size = LABEL / scale;
  pen.font = `${size}px sans-serif`;
  pen.textBaseline = "top";
  pen.lineWidth = size / 5;
  clip.names.forEach((name, index) => {
    const x = (index % columns) * clip.width;
    const y = Math.floor(index / columns) * clip.height;
    pen.drawImage(video, ...partOf(index, clip, view), x, y, clip.width, clip.height);
    pen.strokeText(name, x + size / 3, y + size / 3);
    pen.fillStyle = "#fff";
    pen.fillText(name, x + size / 3, y + size / 3);
  });
}

/** A canvas that changes its size is emptied: it is left alone while it need not. */
function fit(canvas, width, height) {
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
}

/** Zoomed in, single pixels are to be seen. */
function penOf(canvas, view) {
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = view.zoom === 1;
  return pen;
}
