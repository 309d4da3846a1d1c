// Masks in COCO's compressed run lengths, and how they, boxes and points are drawn.

export const COLOURS = [[86, 180, 233], [230, 159, 0], [204, 121, 167], [240, 228, 66], [0, 158, 115], [213, 94, 0], [0, 114, 178]];
const ON = "#009e73", OFF = "#d55e00";

/** The run lengths of COCO's text: groups of five bits, each from the fourth on as the difference to the one two before. */
function readRuns(text) {
  const runs = [];
  for (let place = 0; place < text.length;) {
    let value = 0, shift = 0, group;
    do {
      group = text.charCodeAt(place++) - 48;
      value |= (group & 31) << shift;
      shift += 5;
    } while (group & 32);
    if (group & 16 && shift < 32) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

/** Call `paint(first, last)` with pixel numbers down the columns for each run on the object. */
function forRuns({counts}, paint) {
  let place = 0;
  readRuns(counts).forEach((run, number) => {
    if (number % 2) paint(place, place + run);
    place += run;
  });
}

/** Draw the objects' masks on a canvas of the image's size, each with a white edge that shows on any colour. */
export function drawMasks(canvas, result, opacity = 0.55) {
  const {width, height} = result.size, pixels = new ImageData(width, height);
  result.objects.forEach(({mask}, index) => {
    const [red, green, blue] = COLOURS[index % COLOURS.length], inside = new Uint8Array(width * height);
    forRuns(mask, (first, last) => inside.fill(1, first, last));
    for (let place = 0; place < inside.length; place++) {
      if (!inside[place]) continue;
      const row = place % height, isEdge = !(row && row < height - 1 && inside[place - 1] && inside[place + 1] && inside[place - height] && inside[place + height]);
      pixels.data.set(isEdge ? [255, 255, 255, 255] : [red, green, blue, 255 * opacity], 4 * (row * width + Math.floor(place / height)));
    }
  });
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function add(parent, name, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent.append(node);
}

/** Draw boxes, and points coloured by their answer, fainter where the model is less sure; all in pixels of the image. */
export function drawMarks(svg, result, withPoints) {
  const {width, height} = result.size, unit = Math.max(width, height) / 100;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  result.objects.forEach(({box: [x1, y1, x2, y2]}, index) => {
    const frame = {x: x1, y: y1, width: x2 - x1, height: y2 - y1, fill: "none"};
    add(svg, "rect", {...frame, stroke: "#000", "stroke-width": unit * 0.7});
    add(svg, "rect", {...frame, stroke: `rgb(${COLOURS[index % COLOURS.length]})`, "stroke-width": unit * 0.4});
  });
  for (const {x, y, label, confidence} of withPoints ? listPoints(result) : []) {
    const opacity = confidence === null ? 0.8 : Math.max(0.2, 2 * confidence - 1);
    add(svg, "circle", {cx: x, cy: y, r: unit * 0.9, fill: label ? ON : OFF, "fill-opacity": opacity, stroke: label ? "#fff" : "#000", "stroke-width": unit * 0.25});
  }
}

/** The answers about points; where there are none, as after a click, the points that the segmenter was prompted with. */
export function listPoints(result) {
  return result.point_answers.length ? result.point_answers : result.objects.flatMap(({points}) => points);
}

export function countPixels({mask}) {
  let count = 0;
  forRuns(mask, (first, last) => { count += last - first; });
  return count;
}
