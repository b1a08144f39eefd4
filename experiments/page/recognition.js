// The page of one run of recognition: its figures on unseen identities, the ROC and the cosines of pairs, and queries.

const lines = data.lines, sprite = new Sprite(data.sprite), identities = unpack(data.identities);
const queries = unpack(data.queries), found = data.found.map(unpack), cosines = data.cosines.map(each => Float32Array.from(unpack(each), v => v / 32767));
const roc = data.roc.map(({tar, thresholds}) => ({
  tar: Float32Array.from(unpack(tar), v => v / 65535), thresholds: Float32Array.from(unpack(thresholds), v => v / 32767)}));
const pairs = data.pairs.map(({genuine, impostor}) => ({genuine: unpack(genuine), impostor: unpack(impostor)}));
const now = element("p", {className: "now", id: "now"});
const power = rate => (rate === 1 ? "1" : rate.toExponential(1).replace(".0e", "e"));
const values = name => data.figures.map(figures => figures.find(figure => figure.name === name)?.value ?? null);

// A small figure with axes: x and y are functions of shares of 1.
class Plot {
  constructor(label, xs, ys, caption) {
    [this.width, this.height, this.left, this.right, this.top, this.bottom] = [340, 200, 44, 10, 8, 22];
    this.svg = shape("svg", {viewBox: `0 0 ${this.width} ${this.height}`, role: "img", "aria-label": label});
    for (const [at, text] of xs) this.svg.append(shape("text", {x: this.x(at), y: this.height - 6, "text-anchor": "middle"}, text));
    for (const [at, text] of ys) {
      this.svg.append(shape("line", {class: "axis", x1: this.left, x2: this.width - this.right, y1: this.y(at), y2: this.y(at)}));
      this.svg.append(shape("text", {x: this.left - 5, y: this.y(at) + 4, "text-anchor": "end"}, text));
    }
    this.mark = shape("line", {class: "mark", y1: this.top, y2: this.height - this.bottom});
    this.svg.append(this.mark);
    this.now = element("span");
    this.figure = element("figure", {}, this.svg, element("figcaption", {}, caption, element("br"), this.now));
  }

  x(share) { return this.left + share * (this.width - this.left - this.right); }

  y(share) { return this.top + (1 - share) * (this.height - this.top - this.bottom); }

  line(properties) {
    const path = shape("path", {fill: "none", "stroke-width": 2, ...properties});
    this.svg.append(path);
    return path;
  }

  at(share) { for (const end of ["x1", "x2"]) this.mark.setAttribute(end, this.x(share)); }
}

const low = Math.log10(data.rates[0]), along = rate => 1 - Math.log10(rate) / low;
const decades = Array.from({length: Math.floor(-low) + 1}, (_, i) => [1 + i / low, i ? `1e-${i}` : "1"]);
const accepted = new Plot("true acceptance rate over false acceptance rate", decades, [[0, "0 %"], [0.5, "50 %"], [1, "100 %"]],
  "genuine pairs that are accepted, over the share of impostor pairs that are");
const acceptedLine = accepted.line({stroke: "var(--accent)"});
const densities = new Plot("cosines of pairs", [[0, "−1"], [0.5, "0"], [1, "1"]], [[0, "0"]],
  "cosines of pairs: — genuine, ╌ impostor");
const drawn = {genuine: densities.line({stroke: "var(--accent)"}),
  impostor: densities.line({stroke: "var(--alarm)", "stroke-dasharray": "6 3"})};
const rate = element("input", {id: "rate", type: "range", min: 0, max: data.rates.length - 1, step: 1,
  value: data.rates.findIndex(each => each >= 0.00099), oninput: () => threshold()});
rate.setAttribute("aria-label", "false acceptance rate");

function threshold() {
  const i = Number(rate.value), {tar, thresholds} = roc[timeline.index];
  accepted.at(along(data.rates[i]));
  densities.at((thresholds[i] + 1) / 2);
  accepted.now.textContent = `false acceptance rate ${power(data.rates[i])}: ${percent(tar[i])} of genuine pairs are accepted`;
  densities.now.textContent = `accepted from a cosine of ${thresholds[i].toFixed(3)} on`;
  rate.setAttribute("aria-valuetext", accepted.now.textContent);
}

function densitiesAt(index) {
  const {genuine, impostor} = pairs[index], highest = Math.max(...genuine, ...impostor);
  for (const [name, path] of Object.entries(drawn)) {
    const shares = {genuine, impostor}[name];
    path.setAttribute("d", [...shares].map((share, i) =>
      `${i ? "L" : "M"}${densities.x((i + 0.5) / data.bins)},${densities.y(share / highest)}`).join(""));
  }
}

const table = element("tbody", {id: "figures"});
function tableAt(index) {
  table.replaceChildren(...data.figures[index].map(({name, value, low, high, note}) => element("tr", {},
    element("th", {scope: "row"}, name), element("td", {}, value === null ? "–" : percent(value)),
    element("td", {}, note || (low === null ? "" : `${percent(low)} – ${percent(high)}`)))));
}

const rows = element("div", {id: "queries"});
let group = 0;
const choices = data.groups.map(({name, size}, g) => element("label", {}, element("input", {
  type: "radio", name: "group", id: `group-${g}`, checked: g === 0, disabled: size === 0,
  onchange: () => { group = g; queriesAt(timeline.index); }}), `${name} (${size})`));
function picture(number, words, isWrong) {
  const canvas = element("canvas", {className: isWrong === undefined ? "" : isWrong ? "miss" : "hit"});
  sprite.draw(canvas, number);
  const mark = isWrong === undefined ? "" : isWrong ? "✗ " : "✓ ";
  return element("figure", {}, canvas, element("figcaption", {className: isWrong ? "wrong" : ""}, `${mark}${words}`, element("br"),
    data.names[number]));
}
function queriesAt(index) {
  const first = data.groups.slice(0, group).reduce((sum, {size}) => sum + size, 0), k = data.beside;
  rows.replaceChildren(...Array.from({length: data.groups[group].size}, (_, i) => {
    const q = first + i, query = queries[q], near = [...found[index].subarray(q * k, (q + 1) * k)];
    return element("div", {className: "pictures query"}, picture(query, "query"), ...near.map((number, j) =>
      picture(number, cosines[index][q * k + j].toFixed(2), identities[number] !== identities[query])));
  }));
}

const curves = [["MAP@R", "precision@1"], ["TAR at FAR 1e-2", "TAR at FAR 1e-3"], ["rank-1", "TPIR at FPIR 1e-1"]]
  .map(names => names.filter(name => values(name).some(value => value !== null)))
  .filter(names => names.length)
  .map(names => new Curves(names.join(", "), lines.map(line => line.epoch), names.map((name, i) =>
    ({name, values: values(name), dash: i ? "6 3" : ""})), value => `${(100 * value).toFixed(1)} %`, index => timeline.set(index)));
curves.push(new Curves("training loss", lines.map(line => line.epoch), [{name: "loss", values: lines.map(line => line.train_loss)}],
  value => value.toFixed(2), index => timeline.set(index)));

let drawnAt = -1;
const timeline = new Timeline(lines.map(line => line.epoch), time => {
  curves.forEach(curve => curve.show(time));
  const index = Math.round(time);
  if (index === drawnAt) return;
  drawnAt = index;
  const said = ["precision@1", "MAP@R", "rank-1"].filter(name => values(name)[index] !== null)
    .map(name => `${name} ${percent(values(name)[index])}`);
  now.textContent = `${data.said}: ${said.join(" · ")}`;
  acceptedLine.setAttribute("d", [...roc[index].tar].map((tar, i) =>
    `${i ? "L" : "M"}${accepted.x(along(data.rates[i]))},${accepted.y(tar)}`).join(""));
  densitiesAt(index);
  tableAt(index);
  queriesAt(index);
  threshold();
});

page.replaceChildren(
  element("h1", {}, data.title), now, timeline.row,
  element("div", {className: "columns"},
    element("div", {}, element("h2", {}, "queries, and the pictures nearest to them"), element("div", {className: "row"}, ...choices),
      rows, element("p", {className: "hint"}, "below each picture its cosine with the query; ✗ is another identity")),
    element("div", {}, element("h2", {}, "a threshold for pairs"),
      element("div", {className: "row time"}, element("label", {htmlFor: "rate"}, "false acceptance rate"), rate),
      accepted.figure, densities.figure,
      element("h2", {}, "every figure"), element("table", {}, element("thead", {}, element("tr", {}, ...["", "", "interval over identities"]
        .map(text => element("th", {scope: "col"}, text)))), table), ...curves.map(curve => curve.figure))),
  recipe(data.command, data.config));
timeline.set(timeline.time);
