// The page of one run of the gender study: curves, and a confusion matrix whose cells show their pictures.

const lines = data.lines, of = name => lines.map(line => line[name] ?? null), sprite = data.sprite && new Sprite(data.sprite);
const now = element("p", {className: "now", id: "now"}), matrix = element("div", {className: "scroll"});
const pictures = element("div", {id: "pictures"});
pictures.setAttribute("aria-live", "polite");
const labels = unpack(data.labels), predictions = data.predictions.map(unpack), confidences = data.confidences.map(unpack);
let cell = null;
const curves = [
  new Curves("loss", of("epoch"), [{name: "training", values: of("train_loss")}, {name: "test", values: of("test_loss"), dash: "6 3"}],
    value => value.toFixed(3), index => timeline.set(index)),
  new Curves("accuracy", of("epoch"), [{name: "training", values: of("train_accuracy")},
    {name: "test", values: of("test_accuracy"), dash: "6 3"}], value => `${(100 * value).toFixed(1)} %`, index => timeline.set(index)),
];

function show(time) {
  const index = Math.round(time), line = lines[index], k = data.classes.length;
  now.textContent = `test accuracy ${percent(line.test_accuracy)} of ${labels.length} pictures `
    + `(standard error ${(100 * Math.sqrt(line.test_accuracy * (1 - line.test_accuracy) / labels.length)).toFixed(2)} points)`;
  curves.forEach(curve => curve.show(time));
  const counts = Array.from({length: k}, () => new Array(k).fill(0));
  labels.forEach((label, i) => { counts[label][predictions[index][i]] += 1; });
  const head = element("tr", {}, element("th", {}, "class ╲ predicted"),
    ...data.classes.map(name => element("th", {scope: "col"}, name)));
  const rows = counts.map((row, label) => {
    const total = row.reduce((a, b) => a + b, 0) || 1;
    return element("tr", {}, element("th", {scope: "row"}, data.classes[label]), ...row.map((count, predicted) => {
      const button = element("button", {type: "button", onclick: () => { cell = [label, predicted]; list(); }}, String(count));
      button.dataset.cell = `${label},${predicted}`;
      button.setAttribute("aria-label", `${data.classes[label]}, predicted ${data.classes[predicted]}: ${count}`);
      button.style.background = `color-mix(in srgb, var(${label === predicted ? "--accent" : "--alarm"}) ${
        Math.round(70 * count / total)}%, var(--panel))`;
      return element("td", {}, button);
    }));
  });
  matrix.replaceChildren(element("table", {className: "matrix"}, element("thead", {}, head), element("tbody", {}, ...rows)));
  list();
}

// The cell's pictures, the most confident first.
function list() {
  if (!cell) return;
  const [label, predicted] = cell, index = timeline.index;
  const all = [...labels.keys()].filter(i => labels[i] === label && predictions[index][i] === predicted);
  all.sort((a, b) => confidences[index][b] - confidences[index][a]);
  const first = all.slice(0, 36), row = element("div", {className: "pictures"}, ...first.map(i => {
    const canvas = element("canvas");
    if (sprite) sprite.draw(canvas, i);
    return element("figure", {}, ...(sprite ? [canvas] : []),
      element("figcaption", {}, `${(confidences[index][i] / 655.35).toFixed(1)} %`));
  }));
  pictures.replaceChildren(
    element("h2", {}, `${data.classes[label]}, predicted ${data.classes[predicted]}: ${all.length}`
      + (all.length > first.length ? `, the ${first.length} most confident` : "")), row);
}

const timeline = new Timeline(of("epoch"), show);
page.replaceChildren(
  element("h1", {}, data.title), now, timeline.row,
  element("div", {className: "columns"},
    element("div", {}, element("h2", {}, "confusion: choose a cell to see its pictures"), matrix, pictures,
      ...(data.note ? [element("p", {className: "hint"}, data.note)] : [])),
    element("div", {}, ...curves.map(curve => curve.figure))),
  recipe(data.command, data.config));
timeline.set(timeline.time);
