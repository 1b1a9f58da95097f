import assert from "node:assert/strict";
import { test } from "node:test";
import { WHOLE, contained, gridOf, moved, placeIn, zoomed } from "../places.js";

const near = (a, b) => assert.ok(Math.abs(a - b) < 1e-12, `${a} is not ${b}`);

test("a picture is centred in its box", () => {
  const box = { width: 100, height: 40 };
  assert.deepEqual(contained(box, { width: 20, height: 20 }), { left: 30, top: 0, scale: 2 });
  assert.deepEqual(contained(box, { width: 50, height: 10 }), { left: 0, top: 10, scale: 2 });
});

test("a place follows the pointer and stays within the picture", () => {
  const box = { width: 100, height: 40 };
  const picture = { width: 20, height: 20 };
  const at = [0, 30, 40, 50, 70, 100].map((x) => placeIn({ x, y: 10 }, box, picture));
  assert.deepEqual(at.map(({ x }) => x), [0, 0, 0.25, 0.5, 1, 1]);
  assert.deepEqual(new Set(at.map(({ y }) => y)), new Set([0.25]));
  assert.equal(placeIn({ x: 50, y: 99 }, box, picture).y, 1);
});

test("a grid has room for all and makes them as large as may be", () => {
  const wide = { width: 160, height: 90 };
  const square = { width: 64, height: 64 };
  const box = { width: 330, height: 250 };
  assert.deepEqual(gridOf(1, box, wide), { columns: 1, rows: 1 });
  assert.deepEqual(gridOf(2, box, wide), { columns: 1, rows: 2 });
  assert.deepEqual(gridOf(2, box, square), { columns: 2, rows: 1 });
  assert.deepEqual(gridOf(3, box, square), { columns: 2, rows: 2 });
  assert.deepEqual(gridOf(4, box, wide), { columns: 2, rows: 2 });
  assert.deepEqual(gridOf(4, { width: 900, height: 60 }, wide), { columns: 4, rows: 1 });
});

test("zooming keeps the place under the pointer, up to the edges and both limits", () => {
  const place = { x: 0.7, y: 0.2 };
  let view = WHOLE;
  const seen = ({ zoom, x, y }) => [x + place.x / zoom, y + place.y / zoom];
  for (let i = 0; i < 3; i++) {
    const [x, y] = seen(view);
    view = zoomed(view, 1.5, place);
    near(seen(view)[0], x);
    near(seen(view)[1], y);
  }
  near(view.zoom, 1.5 ** 3);
  assert.equal(zoomed(view, 100).zoom, 16);
  assert.deepEqual(zoomed(view, 1 / 100, { x: 0, y: 1 }), WHOLE);
});

test("a view moves by shares of what is seen and not out of the picture", () => {
  const view = { zoom: 4, x: 0.5, y: 0.25 };
  assert.deepEqual(moved(view, 0.5, -0.25), { zoom: 4, x: 0.625, y: 0.1875 });
  assert.deepEqual(moved(view, 9, -9), { zoom: 4, x: 0.75, y: 0 });
  assert.deepEqual(moved(WHOLE, 0.3, 0.3), WHOLE);
});
