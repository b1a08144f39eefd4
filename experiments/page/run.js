// The page of one run of the ArcLoss study.

const run = {...data.run, labels: unpack(data.run.labels)};
const canvas = element("canvas", {className: "plane", id: "plane", tabIndex: 0});
canvas.setAttribute("role", "img");
canvas.setAttribute("aria-describedby", "keys");
const plane = new Plane(canvas, run);
const sprite = data.sprite && new Sprite(data.sprite);
const thumbnail = element("canvas"), words = element("div"), card = element("div", {className: "card", id: "card", hidden: true});
card.append(...(sprite ? [thumbnail] : []), words);
const said = element("div", {className: "said", id: "said"});
said.setAttribute("aria-live", "polite");
const now = element("p", {className: "now", id: "now"});
const lines = data.lines, of = name => lines.map(line => line[name] ?? null);
const curves = [
  new Curves("loss", of("epoch"), [{name: "training", values: of("train_loss")}, {name: "test", values: of("test_loss"), dash: "6 3"}],
    value => value.toFixed(2), index => timeline.set(index)),
  new Curves("accuracy", of("epoch"), [{name: "training", values: of("train_accuracy")},
    {name: "test", values: of("test_accuracy"), dash: "6 3"}], value => `${(100 * value).toFixed(1)} %`, index => timeline.set(index)),
  new Curves("gaps between neighbouring classes", of("epoch"), [{name: "smallest", values: of("smallest_gap_degrees")},
    {name: "largest", values: of("largest_gap_degrees"), dash: "6 3"}], degrees, index => timeline.set(index)),
];
const timeline = new Timeline(of("epoch"), time => {
  const line = lines[Math.round(time)];
  now.textContent = `test accuracy ${percent(line.test_accuracy)} · gaps ${degrees(line.smallest_gap_degrees)}–`
    + `${degrees(line.largest_gap_degrees)} · ${line.verdict}`;
  canvas.setAttribute("aria-label", `embeddings of ${run.count} test images at epoch ${line.epoch}; ${now.textContent}`);
  curves.forEach(curve => curve.show(time));
  plane.draw(time);
  if (plane.settings.selected >= 0) describe(plane.settings.selected);
});

function redraw() {
  plane.draw(timeline.time);
  if (plane.settings.selected >= 0) select(plane.shown[plane.settings.selected] ? plane.settings.selected : -1);
}

function describe(i) {
  const frame = plane.at(timeline.index), label = run.labels[i], predicted = frame.predictions[i];
  let other = -1, nearest = Infinity;
  run.classes.forEach((_, c) => {
    const angle = c === label ? Infinity : plane.angle(frame, i, c);
    if (angle < nearest) { nearest = angle; other = c; }
  });
  const isWrong = predicted !== label;
  const verdict = element("span", {className: isWrong ? "wrong" : ""}, `predicted ${run.classes[predicted]}${isWrong ? ": wrong" : ""}`);
  words.replaceChildren(
    element("b", {}, `class ${run.classes[label]}`), element("br"), verdict, element("br"),
    `${degrees(plane.angle(frame, i, label))} from its class`, element("br"),
    `${degrees(nearest)} from ${run.classes[other] ?? "no other"}, the nearest other`);
  if (sprite && card.number !== i) sprite.draw(thumbnail, run.numbers ? run.numbers[i] : i);
  card.number = i;
  card.hidden = false;
  const scale = canvas.clientWidth / canvas.width, x = plane.x[i] * scale, y = plane.y[i] * scale;
  card.style.left = `${Math.max(0, Math.min(x + 14, canvas.clientWidth - card.offsetWidth - 4))}px`;
  card.style.top = `${y + card.offsetHeight + 24 > canvas.clientHeight ? y - card.offsetHeight - 14 : y + 14}px`;
}

function select(i) {
  plane.settings.selected = i;
  if (i < 0) card.hidden = true;
  else describe(i);
  plane.draw(timeline.time);
}

// The next shown point after the one selected, in this direction around the list.
function step(direction) {
  const count = plane.count, from = plane.settings.selected < 0 ? (direction > 0 ? -1 : count) : plane.settings.selected;
  for (let k = 1; k <= count; k++) {
    const i = (((from + direction * k) % count) + count) % count;
    if (plane.shown[i]) {
      select(i);
      said.textContent = words.innerText;
      return;
    }
  }
}

canvas.addEventListener("pointermove", event => { if (event.pointerType === "mouse") select(plane.nearest(event.clientX, event.clientY)); });
canvas.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") select(-1); });
canvas.addEventListener("click", event => select(plane.nearest(event.clientX, event.clientY)));
canvas.addEventListener("keydown", event => {
  if (event.key === "ArrowDown") step(1);
  else if (event.key === "ArrowUp") step(-1);
  else if (event.key === "Escape") select(-1);
  else return;
  event.preventDefault();
});

const boxes = run.classes.map((name, c) => {
  const box = element("input", {type: "checkbox", checked: true, onchange: () => { plane.settings.classes[c] = box.checked; redraw(); }});
  box.dataset.number = c;
  const swatch = element("span", {className: "swatch"});
  return {box, swatch, label: element("label", {}, box, swatch, name)};
});
function paint() { boxes.forEach(({swatch}, c) => { swatch.style.background = plane.colours()[c]; }); }
isDark.addEventListener("change", paint);
paint();
const every = (id, name, checked) => element("button", {id, type: "button", onclick: () => {
  boxes.forEach(({box}, c) => { box.checked = plane.settings.classes[c] = checked; });
  redraw();
}}, name);
const choice = (group, value, name) => element("label", {}, element("input", {
  type: "radio", name: group, value, id: `${group}-${value}`, checked: plane.settings[group] === value,
  onchange: () => { plane.settings[group] = value; plane.marks = null; redraw(); },
}), name);
const mistakes = element("input", {type: "checkbox", id: "mistakes", onchange: () => {
  plane.settings.mistakes = mistakes.checked;
  redraw();
}});

page.replaceChildren(
  element("h1", {}, data.title), now,
  element("div", {className: "columns"},
    element("div", {},
      element("div", {className: "stage"}, canvas, card), timeline.row,
      element("p", {className: "hint", id: "keys"}, "space plays, ← and → change the epoch; on the picture ↑ and ↓ go from point to point",
        ...(run.note ? [element("br"), run.note] : [])), said),
    element("div", {},
      element("fieldset", {}, element("legend", {}, "show"),
        element("div", {className: "row"}, choice("view", "plane", "plane"), choice("view", "circle", "directions")),
        element("div", {className: "row"}, choice("marks", "dots", "dots"), choice("marks", "names", "first letters")),
        element("label", {}, mistakes, "only the mistakes")),
      element("fieldset", {}, element("legend", {}, "classes"),
        element("div", {className: "row"}, every("all", "all", true), every("none", "none", false)),
        element("div", {className: "classes"}, ...boxes.map(({label}) => label))),
      ...curves.map(curve => curve.figure))),
  recipe(data.command, data.config));
timeline.set(timeline.time);
plane.resize();
