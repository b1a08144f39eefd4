// Embeddings in the plane at any moment between two epochs, on a canvas; or their directions, on the unit circle.

const REACH = 1.2;  // of the picture's edge, in radii of the embeddings

class Plane {
  constructor(canvas, run) {
    Object.assign(this, {canvas, run});
    this.count = run.count;
    this.labels = run.labels;
    this.frames = run.frames.map(frame => ({...frame, points: unpack(frame.points)}));
    for (const frame of this.frames) frame.predictions = this.predict(frame);
    this.x = new Float32Array(this.count);  // in pixels of the canvas, as last drawn
    this.y = new Float32Array(this.count);
    this.shown = new Uint8Array(this.count);
    this.settings = {view: "plane", marks: "dots", mistakes: false, classes: run.classes.map(() => true), selected: -1};
    this.time = this.frames.length - 1;
    new ResizeObserver(() => this.resize()).observe(canvas);
    isDark.addEventListener("change", () => { this.marks = null; this.draw(this.time); });
  }

  resize() {
    const side = Math.round(this.canvas.clientWidth * Math.min(window.devicePixelRatio || 1, 2));
    if (side && side !== this.canvas.width) {
      this.canvas.width = this.canvas.height = side;
      this.marks = null;
      this.draw(this.time);
    }
  }

  // Of each point the class whose direction, any of its sub-centres', is nearest.
  predict(frame) {
    const predictions = new Uint16Array(this.count), {points} = frame;
    for (let i = 0; i < this.count; i++) {
      let best = -2, px = points[2 * i], py = points[2 * i + 1];
      const norm = Math.hypot(px, py) || 1;
      frame.centers.forEach((centers, c) => {
        for (const [wx, wy] of centers) {
          const cosine = (px * wx + py * wy) / norm;
          if (cosine > best) { best = cosine; predictions[i] = c; }
        }
      });
    }
    return predictions;
  }

  // Degrees between a point and a class's nearest direction.
  angle(frame, i, c) {
    const px = frame.points[2 * i], py = frame.points[2 * i + 1], norm = Math.hypot(px, py);
    const cosine = Math.max(...frame.centers[c].map(([wx, wy]) => (px * wx + py * wy) / norm));
    return Math.acos(Math.min(1, Math.max(-1, cosine))) * 180 / Math.PI;
  }

  at(index) { return this.frames[Math.min(this.frames.length - 1, Math.max(0, index))]; }

  colours() { return this.run[isDark.matches ? "bright" : "colours"]; }

  // Of each class its mark: [dx, dy, opacity of 256] of the pixels, and its colour's bytes.
  stamps(size) {
    const {marks} = this.settings;
    if (this.marks && this.marks.size === size && this.marks.kind === marks) return this.marks.all;
    const side = Math.ceil(marks === "names" ? size * 2.8 : size + 1), small = document.createElement("canvas");
    small.width = small.height = side;
    const context = small.getContext("2d", {willReadFrequently: true});
    context.font = `600 ${size * 2.4}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    const all = this.colours().map((colour, c) => {
      context.clearRect(0, 0, side, side);
      context.beginPath();
      if (marks === "names") context.fillText([...this.run.classes[c]][0] ?? "?", side / 2, side / 2);
      else context.arc(side / 2, side / 2, size / 2, 0, 7);
      context.fill();
      const {data: pixels} = context.getImageData(0, 0, side, side), dots = [];
      for (let i = 0; i < side * side; i++) {
        if (pixels[4 * i + 3] > 20) dots.push((i % side) - (side >> 1), Math.floor(i / side) - (side >> 1), pixels[4 * i + 3]);
      }
      return {dots, rgb: [1, 3, 5].map(at => parseInt(colour.slice(at, at + 2), 16))};
    });
    this.marks = {size, kind: marks, all};
    return all;
  }

  // One pass over the points into an image of their own: ten thousand calls of the canvas would take too long a frame.
  points(before, after, share, now, middle) {
    const side = this.canvas.width, {settings, labels} = this, isCircle = settings.view === "circle";
    if (!this.layer || this.layer.width !== side) {
      this.layer = document.createElement("canvas");
      this.layer.width = this.layer.height = side;
      this.image = new ImageData(side, side);
    }
    const pixels = this.image.data, stamps = this.stamps(Math.max(2, side / 230));
    pixels.fill(0);
    for (let i = 0; i < this.count; i++) {
      const label = labels[i];
      this.shown[i] = 0;
      if (!settings.classes[label] || (settings.mistakes && now.predictions[i] === label)) continue;
      let x = before.points[2 * i] * (1 - share) + after.points[2 * i] * share;
      let y = before.points[2 * i + 1] * (1 - share) + after.points[2 * i + 1] * share;
      if (isCircle) {
        const norm = Math.hypot(x, y), radius = 32767 / REACH * (0.86 + 0.13 * ((i * 0.618034) % 1)) / norm;
        if (!norm) continue;
        x *= radius;
        y *= radius;
      } else if (Math.max(Math.abs(x), Math.abs(y)) > 32766) continue;  // it lies outside of the picture
      this.shown[i] = 1;
      x = this.x[i] = middle * (1 + x / 32767);
      y = this.y[i] = middle * (1 - y / 32767);
      const {dots, rgb: [red, green, blue]} = stamps[label], left = Math.round(x), top = Math.round(y);
      for (let k = 0; k < dots.length; k += 3) {
        const px = left + dots[k], py = top + dots[k + 1];
        if (px < 0 || py < 0 || px >= side || py >= side) continue;
        const at = 4 * (py * side + px), opacity = pixels[at + 3] ? dots[k + 2] * 0.75 / 255 : 1;
        pixels[at] += (red - pixels[at]) * opacity;
        pixels[at + 1] += (green - pixels[at + 1]) * opacity;
        pixels[at + 2] += (blue - pixels[at + 2]) * opacity;
        pixels[at + 3] = Math.max(pixels[at + 3], dots[k + 2] * 0.85);
      }
    }
    this.layer.getContext("2d").putImageData(this.image, 0, 0);
    return this.layer;
  }

  draw(time) {
    this.time = time;
    const side = this.canvas.width, context = this.canvas.getContext("2d"), {settings} = this;
    if (!side) return;
    const before = this.at(Math.floor(time)), after = this.at(Math.ceil(time)), share = time - Math.floor(time);
    const middle = side / 2;
    context.clearRect(0, 0, side, side);
    this.rings(context, middle, settings.view === "circle");
    context.drawImage(this.points(before, after, share, this.at(Math.round(time)), middle), 0, 0);
    this.rays(context, before, after, share, middle);
    if (settings.selected >= 0 && this.shown[settings.selected]) {
      context.strokeStyle = ink("ink");
      context.lineWidth = Math.max(2, side / 400);
      context.beginPath();
      context.arc(this.x[settings.selected], this.y[settings.selected], Math.max(6, side / 110), 0, 7);
      context.stroke();
    }
  }

  rings(context, middle, isCircle) {
    context.strokeStyle = ink("faint");
    context.fillStyle = ink("grey");
    context.lineWidth = Math.max(1, middle / 400);
    context.font = `${Math.max(11, middle / 34)}px system-ui, sans-serif`;
    for (const norm of isCircle ? [1] : this.run.rings) {
      const radius = middle / REACH * (isCircle ? 1 : norm / this.run.radius);
      context.beginPath();
      context.arc(middle, middle, radius, 0, 7);
      context.stroke();
      context.fillText(isCircle ? "1" : String(norm), middle + radius * 0.7071 + 3, middle + radius * 0.7071 + 3);
    }
  }

  rays(context, before, after, share, middle) {
    const tip = middle / REACH * 1.02, size = Math.max(12, middle / 22);
    context.font = `700 ${size}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    before.rays.forEach(([x0, y0], c) => {
      const [x1, y1] = after.rays[c], x = x0 * (1 - share) + x1 * share, y = y0 * (1 - share) + y1 * share;
      const norm = Math.hypot(x, y);
      if (!norm) return;
      const [ux, uy] = [x / norm, -y / norm], colour = this.run[isDark.matches ? "bright" : "darker"][c];
      context.globalAlpha = this.settings.classes[c] ? 1 : 0.3;
      for (const [stroke, width] of [[ink("paper"), middle / 90], [colour, middle / 220]]) {
        context.strokeStyle = stroke;
        context.lineWidth = Math.max(1.2, width);
        context.beginPath();
        context.moveTo(middle, middle);
        context.lineTo(middle + ux * tip, middle + uy * tip);
        context.stroke();
      }
      const name = this.run.classes[c].length > 9 ? `${this.run.classes[c].slice(0, 8)}…` : this.run.classes[c];
      const room = context.measureText(name).width / 2, place = tip + size * 0.8 + Math.abs(ux) * Math.max(0, room - size * 0.4);
      const at = [
        Math.min(2 * middle - room - 2, Math.max(room + 2, middle + ux * place)),
        Math.min(2 * middle - size / 2, Math.max(size / 2, middle + uy * place)),
      ];
      context.lineWidth = size / 4;
      context.strokeStyle = ink("paper");
      context.strokeText(name, ...at);
      context.fillStyle = colour;
      context.fillText(name, ...at);
    });
    context.globalAlpha = 1;
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
  }

  // The shown point nearest to a place on the screen, if one is near; else −1.
  nearest(clientX, clientY) {
    const box = this.canvas.getBoundingClientRect(), scale = this.canvas.width / box.width;
    const x = (clientX - box.left) * scale, y = (clientY - box.top) * scale;
    let best = -1, distance = (14 * scale) ** 2;
    for (let i = 0; i < this.count; i++) {
      if (!this.shown[i]) continue;
      const d = (this.x[i] - x) ** 2 + (this.y[i] - y) ** 2;
      if (d < distance) { distance = d; best = i; }
    }
    return best;
  }
}
