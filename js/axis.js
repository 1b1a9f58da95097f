// Axes of a plot: where they begin and end, which numbers stand at them, where a value lies.

// From this ratio on, values that are all above 0 are shown on a logarithmic axis.
const LOGARITHMIC_FROM = 100;

/**
 * The axis for some values: {low, high, log, ticks}. A linear one includes 0, so that heights can
 * be compared; without values it runs from 0 to 1.
 */
export function valueAxis(values) {
  let [least, most] = [Infinity, -Infinity];
  for (const value of values) {
    least = Math.min(least, value);
    most = Math.max(most, value);
  }
  if (least > 0 && most >= least * LOGARITHMIC_FROM && Number.isFinite(most)) {
    return { low: least, high: most, log: true, ticks: decades(least, most) };
  }
  const low = Math.min(0, least);
  const high = Math.max(0, most);
  return linear(low, high > low ? high : low + 1);
}

/** The axis of the steps, from 1 to `steps`; only whole numbers stand at it. */
export function stepAxis(steps) {
  const axis = linear(1, Math.max(steps, 2), 5);
  const inner = axis.ticks.filter((tick) => Number.isInteger(tick) && tick > 1);
  return { ...axis, ticks: [1, ...inner] };
}

function linear(low, high, count = 4) {
  return { low, high, log: false, ticks: roundNumbers(low, high, count) };
}

/** Multiples of 1, 2 or 5 times a power of ten within low..high, about `count` of them. */
export function roundNumbers(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999) * power;
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-6); i * step <= high + step * 1e-6; i++) {
    ticks.push(Number((i * step).toPrecision(12)));
  }
  return ticks;
}

/** Powers of ten within low..high, four or five at most. */
function decades(low, high) {
  const first = Math.ceil(Math.log10(low) - 1e-9);
  const last = Math.floor(Math.log10(high) + 1e-9);
  const every = Math.ceil((last - first + 1) / 4);
  const ticks = [];
  for (let power = first; power <= last; power += every) ticks.push(Number(`1e${power}`));
  return ticks;
}

/** Where a value lies on an axis, 0 at its low end and 1 at its high end. */
export function share(axis, value) {
  const at = axis.log ? Math.log : (number) => number;
  return (at(value) - at(axis.low)) / (at(axis.high) - at(axis.low));
}

/** A number in few characters: 0.25, 12, 1.5e-4. */
export function short(value) {
  const size = Math.abs(value);
  if (value === 0 || (size >= 0.01 && size < 10000)) return String(Number(value.toPrecision(3)));
  return value.toExponential(1).replace(".0e", "e").replace("e+", "e");
}

/** The `d` of an SVG path through points, in a box {left, top, width, height}. */
export function pathThrough(points, xAxis, yAxis, box) {
  return points
    .map(([x, y], i) => {
      const across = box.left + box.width * share(xAxis, x);
      const down = box.top + box.height * (1 - share(yAxis, y));
      return `${i ? "L" : "M"}${across.toFixed(1)} ${down.toFixed(1)}`;
    })
    .join("");
}
