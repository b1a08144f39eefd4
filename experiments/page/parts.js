// What every page shares: elements, packed numbers, the timeline and the curves. Text of others is only ever textContent.

const data = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");

function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node && !name.startsWith("aria")) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function shape(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// Little-endian numbers in base64, as the page's writer packed them.
function unpack(packed) {
  const raw = atob(packed.base64), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new {uint8: Uint8Array, uint16: Uint16Array, int16: Int16Array, float32: Float32Array}[packed.dtype](bytes.buffer);
}

const isDark = window.matchMedia("(prefers-color-scheme: dark)");
const ink = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const percent = value => `${(100 * value).toFixed(2)} %`;
const degrees = value => (value === null || !isFinite(value) ? "?" : `${value.toFixed(1)}°`);

// A slider over the epochs, with play. `time` is an index into the epochs, with fractions while it plays.
class Timeline {
  constructor(epochs, show) {
    this.epochs = epochs;
    this.show = show;
    this.time = epochs.length - 1;
    this.button = element("button", {id: "play", type: "button", onclick: () => this.toggle()});
    this.slider = element("input", {
      id: "time", type: "range", min: 0, max: epochs.length - 1, step: "any", value: this.time,
      oninput: () => { this.stop(); this.set(Math.round(this.slider.value)); },
      onkeydown: event => this.key(event),
    });
    this.slider.setAttribute("aria-label", "epoch");
    this.speed = element("select", {id: "speed"}, ...[[0.5, "slow"], [1, "normal"], [3, "fast"]].map(
      ([value, name]) => element("option", {value, selected: value === 1}, name)));
    this.speed.setAttribute("aria-label", "speed");
    this.label = element("output", {id: "epoch"});
    this.row = element("div", {className: "row time"}, this.button, this.slider, this.label, this.speed);
    document.addEventListener("keydown", event => {
      const typing = ["INPUT", "SELECT", "BUTTON", "SUMMARY", "A"].includes(event.target.tagName);
      if (!typing && !event.ctrlKey && !event.metaKey && !event.altKey) this.key(event);
    });
    this.stop();
  }

  key(event) {
    const last = this.epochs.length - 1, now = Math.round(this.time);
    const goals = {ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last};
    if (event.key === " ") this.toggle();
    else if (event.key in goals) { this.stop(); this.set(Math.min(last, Math.max(0, goals[event.key]))); }
    else return;
    event.preventDefault();
  }

  toggle() { if (this.playing) this.stop(); else this.play(); }

  play() {
    if (this.time >= this.epochs.length - 1) this.set(0);
    this.playing = true;
    this.name();
    let before = null;
    const tick = now => {
      if (!this.playing) return;
      const seconds = before === null ? 0 : Math.min(0.1, (now - before) / 1000);
      before = now;
      const time = Math.min(this.epochs.length - 1, this.time + seconds * 1.4 * Number(this.speed.value));
      this.set(time);
      if (time >= this.epochs.length - 1) this.stop();
      else requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  stop() { this.playing = false; this.name(); }

  name() {
    this.button.textContent = this.playing ? "❚❚ pause" : "▶ play";
    this.button.setAttribute("aria-pressed", String(this.playing));
  }

  get index() { return Math.round(this.time); }

  set(time) {
    this.time = time;
    this.slider.value = time;
    this.label.textContent = `epoch ${this.epochs[this.index]}`;
    this.slider.setAttribute("aria-valuetext", this.label.textContent);
    this.show(time);
  }
}

// Lines over the epochs in one small figure; a click goes to that epoch. lines: [{name, values, dash}].
class Curves {
  constructor(caption, epochs, lines, format, go) {
    const [width, height, left, right, top, bottom] = [340, 130, 46, 8, 8, 20];
    const values = lines.flatMap(line => line.values).filter(value => value !== null && isFinite(value));
    let low = Math.min(...values), high = Math.max(...values);
    if (!(high > low)) { low -= 0.5 * Math.abs(low) || 0.5; high += 0.5 * Math.abs(high) || 0.5; }
    this.x = index => left + (epochs.length > 1 ? index / (epochs.length - 1) : 0.5) * (width - left - right);
    const y = value => top + (1 - (value - low) / (high - low)) * (height - top - bottom);
    const svg = shape("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${caption} over the epochs`});
    for (const value of [low, high]) {
      svg.append(shape("line", {class: "axis", x1: left, x2: width - right, y1: y(value), y2: y(value)}));
      svg.append(shape("text", {x: left - 5, y: y(value) + 4, "text-anchor": "end"}, format(value)));
    }
    svg.append(shape("text", {x: this.x(0), y: height - 4, "text-anchor": "middle"}, epochs[0]));
    if (epochs.length > 1) {
      svg.append(shape("text", {x: this.x(epochs.length - 1), y: height - 4, "text-anchor": "middle"}, epochs.at(-1)));
    }
    this.marker = shape("line", {class: "mark", y1: top, y2: height - bottom});
    svg.append(this.marker);
    this.lines = lines.map(line => {
      const parts = line.values.map((v, i) => (v === null || !isFinite(v) ? null : `${this.x(i)},${y(v)}`));
      const path = parts.map((p, i) => p && `${i && parts[i - 1] ? "L" : "M"}${p}`).filter(Boolean).join("");
      const stroke = {fill: "none", stroke: line.colour ?? "currentColor", "stroke-width": 2, "stroke-dasharray": line.dash ?? ""};
      svg.append(shape("path", {d: path, ...stroke}));
      const dot = shape("circle", {r: 3.5, fill: line.colour ?? "currentColor"});
      svg.append(dot);
      return {...line, dot, y};
    });
    svg.addEventListener("click", event => {
      const box = svg.getBoundingClientRect(), share = (event.clientX - box.left) / box.width * width;
      go(Math.min(epochs.length - 1, Math.max(0, Math.round((share - left) / (width - left - right) * (epochs.length - 1)))));
    });
    const legend = lines.map(line => `${line.dash ? "╌" : "—"} ${line.name}`).join("   ");
    this.now = element("span");
    this.format = format;
    this.figure = element("figure", {}, svg, element("figcaption", {}, `${caption}:  ${legend}`, element("br"), this.now));
  }

  show(time) {
    const index = Math.round(time), x = this.x(time);
    this.marker.setAttribute("x1", x);
    this.marker.setAttribute("x2", x);
    for (const line of this.lines) {
      const value = line.values[index], seen = value !== null && isFinite(value);
      line.dot.setAttribute("visibility", seen ? "visible" : "hidden");
      if (seen) { line.dot.setAttribute("cx", this.x(index)); line.dot.setAttribute("cy", line.y(value)); }
    }
    const said = this.lines.map(line => `${line.name} ${line.values[index] === null ? "?" : this.format(line.values[index])}`);
    this.now.textContent = said.join(", ");
  }
}

function copied(text, button) {
  const done = () => { button.textContent = "copied"; setTimeout(() => { button.textContent = "copy"; }, 1500); };
  const byHand = () => {
    const area = element("textarea", {value: text});
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    done();
  };
  if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, byHand);
  else byHand();
}

// The command to copy, and the run's configuration.
function recipe(command, config) {
  const button = element("button", {id: "copy", type: "button"}, "copy");
  button.addEventListener("click", () => copied(command, button));
  const rows = config.map(([name, value]) => element("tr", {}, element("th", {scope: "row"}, name), element("td", {}, value)));
  return element("section", {},
    element("h2", {}, "The command ", button), element("code", {}, command),
    element("details", {}, element("summary", {}, "configuration"), element("table", {}, element("tbody", {}, ...rows))));
}

// One large picture of all small ones; `draw` puts the one of a number onto a canvas.
class Sprite {
  constructor({uri, side, columns}) {
    this.side = side;
    this.columns = columns;
    this.image = new Image();
    this.image.src = uri;
    this.ready = this.image.decode().catch(() => undefined);
  }

  draw(canvas, number) {
    canvas.width = canvas.height = this.side;
    this.ready.then(() => canvas.getContext("2d").drawImage(this.image,
      (number % this.columns) * this.side, Math.floor(number / this.columns) * this.side, this.side, this.side,
      0, 0, this.side, this.side));
  }
}
