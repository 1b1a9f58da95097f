// The numbers of one run of a loop, gathered from the messages that the server sends.

/**
 * What a message of the event "rescore.progress" holds:
 * @typedef {object} Message
 * @property {number} step     the last step made, counted from 1
 * @property {number} steps    how many there will be
 * @property {Object<string, (number|null)[]>} values
 *   by name, one number for each step since the message before; null where there was none
 */

/** A run begins with nothing: {step, steps, curves}, a curve being [step, value] points in order. */
export function emptySeries() {
  return { step: 0, steps: 0, curves: new Map() };
}

/**
 * The series with a message added. A step that does not come after those before begins a new run.
 * @param {Message} message
 */
export function extended(series, message) {
  const { step, steps, values } = message;
  const goesOn = step > series.step && steps === series.steps;
  const curves = new Map(goesOn ? series.curves : []);
  for (const [name, numbers] of Object.entries(values)) {
    const first = step - numbers.length + 1;
    const points = numbers.map((value, i) => [first + i, value]).filter(([, y]) => isNumber(y));
    curves.set(name, [...(curves.get(name) ?? []), ...points]);
  }
  return { step, steps, curves };
}

/** The mean of each point's value and those before it, `window` of them where there are as many. */
export function runningMean(points, window) {
  let sum = 0;
  return points.map(([x, y], i) => {
    sum += y - (i >= window ? points[i - window][1] : 0);
    return [x, sum / Math.min(i + 1, window)];
  });
}

/** At most about `most` of the points, in order; the lowest and highest of each stretch are kept. */
export function thinned(points, most) {
  if (points.length <= most) return points;
  const size = Math.ceil((2 * points.length) / most);
  const kept = [];
  for (let start = 0; start < points.length; start += size) {
    const stretch = points.slice(start, start + size);
    const byValue = [...stretch].sort((a, b) => a[1] - b[1]);
    kept.push(...[byValue[0], byValue.at(-1)].sort((a, b) => a[0] - b[0]));
  }
  return kept;
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}
