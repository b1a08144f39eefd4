// A comparison, of networks or margins: a table that sorts by any column, and their score over training.

const columns = data.columns, body = element("tbody");
let order = {column: data.sort, down: true};
const heads = columns.map(({key, name}) => {
  const button = element("button", {type: "button", onclick: () => {
    order = {column: key, down: order.column === key ? !order.down : true};
    fill();
  }}, name);
  button.dataset.key = key;
  return {key, button, cell: element("th", {scope: "col"}, button)};
});

function fill() {
  const sign = order.down ? -1 : 1, by = row => row[order.column];
  const rows = [...data.rows].sort((a, b) => sign * (typeof by(a) === "string" ? by(a).localeCompare(by(b)) : by(a) - by(b)));
  body.replaceChildren(...rows.map(row => element("tr", {}, ...columns.map(({key, digits, share}) => {
    const value = row[key];
    const said = value === null ? "–" : typeof value === "string" ? value : share ? percent(value) : value.toLocaleString("en", {maximumFractionDigits: digits});
    return element("td", {}, key === "name" && row.href ? element("a", {href: row.href}, said) : said);
  }))));
  for (const {key, cell} of heads) {
    cell.setAttribute("aria-sort", key === order.column ? (order.down ? "descending" : "ascending") : "none");
  }
}

const longest = Math.max(...data.rows.map(row => row.curve.length));
const padded = values => [...values, ...new Array(longest - values.length).fill(null)];
const dashes = ["", "6 3", "2 2", "8 3 2 3", "1 3", "10 4"];
const curve = new Curves(data.curve, Array.from({length: longest}, (_, i) => i + 1),
  data.rows.map((row, i) => ({name: row.name, values: padded(row.curve), dash: dashes[i % dashes.length], colour: row.colour})),
  value => `${(100 * value).toFixed(1)} %`, index => curve.show(index));
page.replaceChildren(element("h1", {}, data.title), element("p", {className: "now"}, data.note),
  element("div", {className: "scroll"}, element("table", {id: "networks"}, element("thead", {},
    element("tr", {}, ...heads.map(({cell}) => cell))), body)), curve.figure);
fill();
curve.show(longest - 1);
