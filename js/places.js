// Where pictures lie in their box, and which part of them is seen.

const MOST_ZOOM = 16;

/** Where a picture of width x height lies in a box, as large as it fits: {left, top, scale}. */
export function contained(box, picture) {
  const scale = Math.min(box.width / picture.width, box.height / picture.height);
  return {
    left: (box.width - picture.width * scale) / 2,
    top: (box.height - picture.height * scale) / 2,
    scale,
  };
}

/** The place {x, y} in a picture, 0..1 from its left and upper edge, of a point in its box. */
export function placeIn(point, box, picture) {
  const { left, top, scale } = contained(box, picture);
  const within = (share) => Math.min(Math.max(share, 0), 1);
  return {
    x: within((point.x - left) / (picture.width * scale)),
    y: within((point.y - top) / (picture.height * scale)),
  };
}

/** The grid {columns, rows} in which `count` pictures are largest in a box. */
export function gridOf(count, box, picture) {
  let best = null;
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const whole = { width: columns * picture.width, height: rows * picture.height };
    const { scale } = contained(box, whole);
    if (!best || scale > best.scale) best = { columns, rows, scale };
  }
  return { columns: best.columns, rows: best.rows };
}

/** The whole of a picture. A view is its zoom and the place, 0..1, of its upper left corner. */
export const WHOLE = { zoom: 1, x: 0, y: 0 };

/** The view `factor` times nearer, about a place {x, y} of what is seen, which stays where it is. */
export function zoomed(view, factor, place = { x: 0.5, y: 0.5 }) {
  const zoom = Math.min(Math.max(view.zoom * factor, 1), MOST_ZOOM);
  const shift = 1 / view.zoom - 1 / zoom;
  return within({ zoom, x: view.x + place.x * shift, y: view.y + place.y * shift });
}

/** The view moved by shares of what is seen, as far as there is a picture. */
export function moved(view, across, down) {
  return within({ ...view, x: view.x + across / view.zoom, y: view.y + down / view.zoom });
}

function within({ zoom, x, y }) {
  const most = 1 - 1 / zoom;
  return { zoom, x: Math.min(Math.max(x, 0), most), y: Math.min(Math.max(y, 0), most) };
}
