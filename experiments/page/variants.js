// The page of several runs, side by side, that play together.

const runs = data.runs.map(each => {
  const run = {...each.run, labels: unpack(each.run.labels)}, canvas = element("canvas", {className: "plane"});
  canvas.setAttribute("role", "img");
  const words = element("p", {className: "now"});
  const title = each.href ? element("a", {href: each.href}, each.name) : each.name;
  const panel = element("section", {}, element("h2", {}, title), canvas, words,
    element("p", {className: "hint"}, `the study: ${each.said}`));
  return {...each, canvas, words, panel, plane: new Plane(canvas, run)};
});
const longest = runs.reduce((a, b) => (b.lines.length > a.lines.length ? b : a));
const timeline = new Timeline(longest.lines.map(line => line.epoch), time => {
  for (const run of runs) {
    const own = Math.min(time, run.lines.length - 1), line = run.lines[Math.round(own)];
    run.words.textContent = `epoch ${line.epoch} · ${percent(line.test_accuracy)} · smallest gap `
      + `${degrees(line.smallest_gap_degrees)} · ${line.verdict}`;
    run.canvas.setAttribute("aria-label", `${run.name}: ${run.words.textContent}`);
    run.plane.draw(own);
  }
});
const views = element("select", {id: "view", onchange: () => {
  for (const run of runs) { run.plane.settings.view = views.value; run.plane.draw(run.plane.time); }
}}, element("option", {value: "plane"}, "plane"), element("option", {value: "circle"}, "directions"));
views.setAttribute("aria-label", "view");
timeline.row.append(views);
page.replaceChildren(element("h1", {}, data.title), timeline.row, element("div", {className: "gallery"}, ...runs.map(run => run.panel)),
  element("p", {className: "hint"}, data.note));
timeline.set(timeline.time);
