(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("chart-data").textContent);
  const canvas = document.getElementById("canvas");
  const NS = "http://www.w3.org/2000/svg"; // a name, never fetched
  const ORDER = ["infeasible", "point", "front", "dropped", "reference", "recommended"];
  const ROLES = { point: "measured", infeasible: "outside a constraint", front: "on the front", dropped: "not recommended",
    reference: "full network", recommended: "recommended" };

  function make(name, attributes, parent, text) {
    const node = document.createElementNS(NS, name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.appendChild(node);
    return node;
  }

  function number(value, unit, step) { // to as many digits as neighbours a step apart need to differ
    const scaled = ["MACs", "parameters", "bytes"].includes(unit);
    const size = Math.abs(value), many = step && size ? Math.max(4, Math.ceil(Math.log10(size / step)) + 1) : 4;
    if (!scaled && size && (size >= 1e6 || size < 1e-4)) {
      const power = Math.floor(Math.log10(size));
      return `${+(value / 10 ** power).toPrecision(many)}e${power}`;
    }
    const [scale, prefix] = !scaled ? [1, ""] : size >= 1e9 ? [1e9, " G"] : size >= 1e6 ? [1e6, " M"] : size >= 1e3 ? [1e3, " k"] : [1, ""];
    const text = String(+(value / scale).toPrecision(many));
    return text + prefix + (unit === "bytes" ? (prefix ? "B" : " B") : "");
  }

  function ticks(low, high, count) {
    const rough = (high - low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((k) => k * power).find((k) => k >= rough * 0.999);
    const found = [];
    for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) found.push(+v.toPrecision(12));
    return found;
  }

  function logTicks(low, high) {
    const found = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++)
      for (const k of [1, 2, 5]) if (k * 10 ** p >= low && k * 10 ** p <= high) found.push(k * 10 ** p);
    return found;
  }

  function range(values, log) {
    const low = Math.min(...values), high = Math.max(...values);
    if (log) return [low / (high / low) ** 0.06 / 1.02, high * (high / low) ** 0.06 * 1.02];
    const size = Math.max(Math.abs(low), Math.abs(high)), least = size * 1e-3; // what is closer shall look alike
    const pad = high === low ? size * 0.1 || 1 : Math.max((high - low) * 0.07, (least - (high - low)) / 2);
    return [low >= 0 ? Math.max(0, low - pad) : low - pad, high + pad];
  }

  const state = { cost: data.first, log: false };
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.id = "tip";

  function say(item, x, y, width) {
    const cost = data.costs[state.cost];
    tip.textContent = "";
    const title = document.createElement("b");
    title.textContent = `${item.id} (${ROLES[item.role]})`;
    tip.append(title);
    const seen = [data.error, cost, ...data.costs.filter((c) => c !== cost)];
    for (const { name, label } of seen) {
      if (!(name in item.shown)) continue;
      const line = document.createElement("span");
      const left = document.createElement("i"), right = document.createElement("i");
      left.style.fontStyle = right.style.fontStyle = "normal";
      left.textContent = label;
      right.textContent = item.shown[name];
      line.append(left, right);
      tip.append(line);
    }
    if (item.summary) {
      const small = document.createElement("em");
      small.textContent = item.summary;
      tip.append(small);
    }
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(0, Math.min(width - box.width, x > width / 2 ? x - box.width - 14 : x + 14))}px`;
    tip.style.top = `${Math.max(0, y - box.height / 2)}px`;
  }

  function shape(role, x, y, parent) {
    if (role === "reference") return make("rect", { x: x - 7, y: y - 7, width: 14, height: 14, rx: 2, class: "mark reference" }, parent);
    if (role === "dropped") return make("path", { d: `M${x - 5} ${y - 5}l10 10m0 -10l-10 10`, class: "mark dropped" }, parent);
    const radius = { recommended: 8, front: 5, point: 3.6, infeasible: 3.6 }[role];
    return make("circle", { cx: x, cy: y, r: radius, class: `mark ${role}` }, parent);
  }

  function draw() {
    const cost = data.costs[state.cost], error = data.error;
    const items = data.items.filter((i) => cost.name in i.values && error.name in i.values)
      .sort((a, b) => ORDER.indexOf(a.role) - ORDER.indexOf(b.role));
    const width = Math.max(280, canvas.clientWidth), narrow = width < 560;
    const height = narrow ? 320 : Math.min(460, Math.round(width * 0.42));
    const xs = items.map((i) => i.values[cost.name]), ys = items.map((i) => i.values[error.name]);
    const log = state.log && Math.min(...xs) > 0;
    const [x0, x1] = range(xs, log), [y0, y1] = range(ys, false);
    const rows = ticks(y0, y1, narrow ? 5 : 6), columns = log ? logTicks(x0, x1) : ticks(x0, x1, narrow ? 4 : 8);
    const words = rows.map((v) => number(v, "", rows[1] - rows[0]));
    const widest = Math.max(...words.map((word) => word.length)) * 7 + 12;
    const box = { left: Math.max(narrow ? 42 : 54, widest), right: 14, top: 26, bottom: 46 };
    const place = log ? Math.log : (v) => v;
    const X = (v) => box.left + ((place(v) - place(x0)) / (place(x1) - place(x0))) * (width - box.left - box.right);
    const Y = (v) => height - box.bottom - ((v - y0) / (y1 - y0)) * (height - box.top - box.bottom);

    canvas.textContent = "";
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "group",
      "aria-label": `${error.label} against ${cost.label} of ${items.length} members` }, canvas);
    rows.forEach((v, k) => {
      make("line", { x1: box.left, x2: width - box.right, y1: Y(v), y2: Y(v), class: "grid" }, svg);
      make("text", { x: box.left - 8, y: Y(v) + 4, "text-anchor": "end" }, svg, words[k]);
    });
    for (const v of columns)
      make("text", { x: X(v), y: height - box.bottom + 20, "text-anchor": "middle" }, svg, number(v, cost.unit, log ? 0 : columns[1] - columns[0]));
    make("line", { x1: box.left, x2: width - box.right, y1: height - box.bottom, y2: height - box.bottom, class: "grid axis" }, svg);
    const unit = (axis) => (["%", "ms"].includes(axis.unit) ? ` (${axis.unit})` : "");
    make("text", { x: box.left, y: 12 }, svg, error.label + unit(error));
    make("text", { x: width - box.right, y: height - 6, "text-anchor": "end" }, svg, cost.label + unit(cost));

    const front = data.fronts[cost.name].map((id) => items.find((i) => i.id === id)).filter(Boolean);
    if (front.length > 1) {
      let path = "";
      front.forEach((i, k) => {
        const x = X(i.values[cost.name]), y = Y(i.values[error.name]);
        path += k ? `H${x}V${y}` : `M${x} ${y}`;
      });
      make("path", { d: path, class: "front" }, svg);
    }
    const names = [];
    for (const item of items) {
      const x = X(item.values[cost.name]), y = Y(item.values[error.name]);
      const mark = shape(item.role, x, y, svg);
      const show = () => { say(item, x * canvas.clientWidth / width, y, canvas.clientWidth); mark.classList.add("on"); };
      const hide = () => { tip.hidden = true; mark.classList.remove("on"); };
      mark.addEventListener("pointerenter", show);
      mark.addEventListener("pointerleave", hide);
      mark.addEventListener("click", show);
      if (item.role !== "point" && item.role !== "infeasible") {
        mark.setAttribute("tabindex", "0");
        mark.setAttribute("role", "img");
        mark.setAttribute("aria-label", `${item.id}, ${ROLES[item.role]}: ${error.label} ${item.shown[error.name]}, ${cost.label} ${item.shown[cost.name]}`);
        mark.addEventListener("focus", show);
        mark.addEventListener("blur", hide);
      }
      if (item.role === "recommended" || item.role === "reference") names.push({ item, x, y });
    }
    const taken = [];
    for (const { item, x, y } of names) {
      const half = item.id.length * 4 + 4;
      const cx = Math.min(width - half, Math.max(box.left + half, x));
      const spots = [y - 14, y + 24, y - 30, y + 40];
      const cy = spots.find((s) => s > 16 && s < height - box.bottom + 2 && !taken.some((t) => Math.abs(t.y - s) < 15 && Math.abs(t.x - cx) < t.half + half)) || spots[0];
      taken.push({ x: cx, y: cy, half });
      const text = make("text", { x: cx, y: cy, "text-anchor": "middle", class: "name" }, svg, item.id);
      text.style.pointerEvents = "none";
    }
    canvas.append(tip);
  }

  const buttons = document.getElementById("costs");
  data.costs.forEach((cost, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = cost.label;
    button.setAttribute("aria-pressed", String(index === state.cost));
    button.addEventListener("click", () => {
      state.cost = index;
      [...buttons.children].forEach((b, k) => b.setAttribute("aria-pressed", String(k === index)));
      draw();
    });
    buttons.append(button);
  });
  document.getElementById("log").addEventListener("change", (event) => { state.log = event.target.checked; draw(); });
  document.getElementById("plot").hidden = data.costs.length === 0;
  if (data.costs.length) {
    draw();
    let last = canvas.clientWidth;
    new ResizeObserver(() => { if (Math.abs(canvas.clientWidth - last) > 1) { last = canvas.clientWidth; draw(); } }).observe(canvas);
  }

  for (const button of document.querySelectorAll(".copy button")) {
    button.addEventListener("click", async () => {
      const pre = button.parentElement.querySelector("pre");
      let done = true;
      try { await navigator.clipboard.writeText(pre.textContent); } catch {
        const range = document.createRange(); // a page opened from a file may not reach the clipboard: select instead
        range.selectNodeContents(pre);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        done = document.execCommand("copy");
      }
      button.textContent = done ? "Copied" : "Selected";
      setTimeout(() => { button.textContent = "Copy"; }, 1600);
    });
  }
})();
