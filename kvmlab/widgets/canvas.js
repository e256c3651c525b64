// The pin canvas in the browser. Cells are painted on a <canvas> of the size of what can be seen; row names, and the cells of
// the row with the focus, are elements, for keyboards and screen readers. What is wished lives in the model: views stay in step.

const UNKNOWN = 0xffff;
const PARTS = ["ran", "user", "kernel", "waiting", "halted"];
const LEGEND = {ran: "guest", user: "user (QEMU)", kernel: "kernel (KVM)", waiting: "waiting for a CPU", halted: "halted"};
const STALE_S = 3;
const PLANS = {
  spread: "Spread: cores of their own", pack: "Pack: on few cores", siblings: "Siblings: on SMT siblings",
  "one-to-one": "One to one: a CPU each", "like-guest": "Like the guest: as its topology",
};
const SIGNS = {error: "✕", warning: "⚠", note: "i", solved: "✓"};

// ---- CPU lists

const parse = (text) => {
  const found = new Set();
  for (const part of text ? text.split(",") : []) {
    const [low, high = low] = part.split("-").map(Number);
    for (let cpu = low; cpu <= high; cpu++) found.add(cpu);
  }
  return found;
};

const format = (cpus) => {
  const sorted = [...cpus].sort((a, b) => a - b), parts = [];
  for (let i = 0; i < sorted.length; i++) {
    const first = sorted[i];
    while (sorted[i + 1] === sorted[i] + 1) i++;
    parts.push(first === sorted[i] ? `${first}` : `${first}-${sorted[i]}`);
  }
  return parts.join(",");
};

const nameOf = (item) => item.row?.id ?? "noisy others";
const same = (a, b) => a.size === b.size && [...a].every((one) => b.has(one));
const percent = (value) => (value === UNKNOWN ? "not known" : `${value} %`);
const many = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

const make = (tag, className = "", text = "", parent = null) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  if (parent) parent.append(element);
  return element;
};

// ---- the numbers of the last seconds, as model.py packs them

function unpack(view) {
  if (!view || view.byteLength < 16) return null;
  const data = new DataView(view.buffer, view.byteOffset, view.byteLength);
  const [rows, cpus, cells] = [0, 4, 8].map((at) => data.getUint32(at, true));
  const went = 16 + 4 * cells, ran = went + 12 * rows, waited = ran + cells, busy = waited + cells;
  const live = {rows, cpus, cells: Array.from({length: rows}, () => new Map()), went: [], busy: []};
  for (let i = 0; i < cells; i++) {
    const place = data.getUint32(16 + 4 * i, true);
    live.cells[Math.floor(place / cpus)].set(place % cpus, [data.getUint8(ran + i), data.getUint8(waited + i)]);
  }
  for (let row = 0; row < rows; row++) live.went.push([0, 1, 2, 3, 4, 5].map((n) => data.getUint16(went + 12 * row + 2 * n, true)));
  for (let cpu = 0; cpu < cpus; cpu++) live.busy.push(data.getUint8(busy + cpu));
  return live;
}

class View {
  constructor(model, el) {
    this.model = model;
    this.level = null; // "cpu" or "core"; null: whichever fits
    this.folded = new Set(); // boxes of the header that are shown as one column
    this.othersFolded = true;
    this.at = {row: 0, col: 0}; // the cursor; `place` keeps it on its row and CPU, whatever comes and goes around it
    this.over = null; // the cell under the pointer
    this.told = null; // rows and CPUs that a message speaks of
    this.stroke = null; // a drag: what it paints
    this.news = performance.now();
    this.build(el);
    this.listen();
    this.theme();
    this.changed();
  }

  // ---- elements

  build(el) {
    const root = (this.root = make("div", "kl-pins", "", el));
    root.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab's own keys: "a" inserts a cell there
    root.kvmlab = this;
    const top = make("div", "kl-top", "", root);
    make("span", "kl-title", "Pin canvas", top);
    this.about = make("span", "kl-about", "", top);
    this.apply = make("button", "kl-apply", "Apply", top);
    this.undo = make("button", "kl-undo", "Undo", top);
    this.plan = make("select", "kl-plan", "", top);
    this.plan.setAttribute("aria-label", "Plan: let kvmlab arrange all guests");
    this.columns = make("select", "kl-columns", "", top);
    this.columns.setAttribute("aria-label", "Columns");
    for (const [value, text] of [["cpu", "a column a CPU"], ["core", "a column a core"]]) make("option", "", text, this.columns).value = value;
    this.live = make("span", "kl-news", "", top);
    this.buildBox(root);
    this.readout = make("div", "kl-readout", "", root);
    this.status = make("div", "kl-status", "", root); // below the cells: they must not move under the pointer
    this.status.setAttribute("role", "status");
    this.status.setAttribute("aria-live", "polite");
    this.buildLegend(make("div", "kl-legend", "", root), make("div", "kl-legend", "", root));
    const below = make("div", "kl-below", "", root);
    this.words = make("div", "kl-words", "", below);
    this.typed = make("div", "kl-typed", "", below);
    make("div", "kl-keys", "arrows move · space toggles · a / n: all / none of the row · Enter applies · u undoes · Escape drops the wishes · " +
      "drag paints · click a node, socket or core above to fold it", root);
    this.said = make("div", "kl-said", "", root);
    this.said.setAttribute("aria-live", "polite");
  }

  buildBox(root) {
    this.box = make("div", "kl-box", "", root);
    const grid = make("div", "", "", this.box);
    this.grid = grid;
    grid.setAttribute("role", "grid");
    grid.setAttribute("aria-label", "Which thread may run on which host CPU");
    grid.setAttribute("aria-multiselectable", "true");
    this.head = make("div", "kl-head", "", grid);
    this.head.setAttribute("role", "presentation");
    this.headCanvas = make("canvas", "", "", this.head);
    this.corner = make("div", "kl-corner", "", this.head);
    this.body = make("div", "kl-body", "", grid);
    this.body.setAttribute("role", "rowgroup");
    this.bodyCanvas = make("canvas", "", "", this.body);
    for (const canvas of [this.headCanvas, this.bodyCanvas]) canvas.setAttribute("aria-hidden", "true");
  }

  buildLegend(legend, parts) {
    const swatch = (style, text, part = "") => {
      const item = make("span", "", "", part ? parts : legend);
      item.prepend(Object.assign(make("i", part), {style}));
      item.append(text);
    };
    swatch("background:var(--kl-may);border:1px solid var(--kl-may-edge)", "may run here");
    swatch("background:linear-gradient(var(--kl-may) 35%,var(--kl-ran) 35%);border:1px solid var(--kl-may-edge)", "ran here, last 5 s");
    swatch("background:linear-gradient(var(--kl-may) 25%,var(--kl-waiting) 25% 60%,var(--kl-ran) 60%);border:1px solid var(--kl-may-edge)", "and waited for the CPU");
    swatch("background:var(--kl-may);border:2px solid var(--kl-plan)", "given on Apply");
    swatch("border:2px dashed var(--kl-plan)", "taken away on Apply");
    this.marksLegend = make("span", "", "✓ as the kernel says", legend);
    this.marksLegend.style.color = "var(--kl-good)";
    for (const part of PARTS) swatch(`background:var(--kl-${part})`, LEGEND[part], "kl-part");
  }

  listen() {
    const {model} = this;
    this.off = [];
    const on = (event, what) => { model.on(event, what); this.off.push(() => model.off(event, what)); };
    for (const name of ["_rows", "_host", "_wished", "_marks", "_about"]) on(`change:${name}`, () => this.changed());
    for (const name of ["_told", "_undo_steps", "_ask", "_ended"]) on(`change:${name}`, () => this.speak());
    on("change:_status", () => { if (model.get("_status").text) this.pending = null; this.speak(); });
    on("change:_live", () => { this.news = performance.now(); this.fresh(); });
    const dom = (target, event, what, options) => { target.addEventListener(event, what, options); this.off.push(() => target.removeEventListener(event, what, options)); };
    dom(this.apply, "click", () => this.press("apply"));
    dom(this.undo, "click", () => this.press("undo"));
    dom(this.plan, "change", () => { this.press("plan", {strategy: this.plan.value}); this.plan.value = ""; });
    dom(this.columns, "change", () => this.columnsChosen());
    dom(this.box, "scroll", () => this.redraw());
    dom(this.body, "pointerdown", (event) => this.down(event));
    dom(this.body, "pointermove", (event) => this.move(event));
    dom(this.body, "pointerup", (event) => this.up(event));
    dom(this.body, "pointercancel", () => this.commit());
    dom(this.body, "pointerleave", () => { this.over = null; this.redraw(); });
    dom(this.head, "click", (event) => this.fold(event));
    dom(this.head, "pointermove", (event) => { this.head.style.cursor = this.bandAt(event) ? "pointer" : ""; });
    dom(this.root, "keydown", (event) => this.key(event));
    dom(matchMedia("(prefers-color-scheme: dark)"), "change", () => this.theme());
    const resize = new ResizeObserver(() => this.changed());
    resize.observe(this.box);
    const themes = new MutationObserver(() => this.theme());
    for (const element of [document.documentElement, document.body]) themes.observe(element, {attributes: true});
    const timer = setInterval(() => this.tick(), 1000);
    this.off.push(() => resize.disconnect(), () => themes.disconnect(), () => clearInterval(timer));
  }

  close() {
    this.closed = true;
    for (const undo of this.off) undo();
    cancelAnimationFrame(this.frame);
  }

  send(message) {
    try { this.model.send(message); return true; } catch { return false; }
  }

  tick() {
    if (!this.root.isConnected) return;
    this.beat = (this.beat || 0) + 1;
    if (this.beat % 4 === 1 && !document.hidden) this.send({do: "looking"});
    this.theme();
    this.speak();
  }

  get stale() { return (performance.now() - this.news) / 1000 > STALE_S; }

  theme() {
    const probe = getComputedStyle(this.root).getPropertyValue("--jp-layout-color0").trim();
    let dark = matchMedia("(prefers-color-scheme: dark)").matches && !probe;
    if (probe) {
      const ink = make("canvas").getContext("2d");
      ink.fillStyle = probe;
      const [r, g, b] = (ink.fillStyle.match(/[0-9a-f]{2}/gi) || ["ff", "ff", "ff"]).map((hex) => parseInt(hex, 16));
      dark = 0.3 * r + 0.6 * g + 0.1 * b < 110;
    }
    if (this.ink && dark === this.dark && probe === this.probe) return;
    Object.assign(this, {dark, probe});
    this.root.classList.toggle("kl-dark", dark);
    const style = getComputedStyle(this.root);
    this.ink = new Proxy({}, {get: (kept, name) => (kept[name] ??= style.getPropertyValue(`--kl-${name}`).trim())});
    this.redraw();
  }

  // ---- what there is to draw

  changed() {
    if (this.closed) return;
    this.rows = this.model.get("_rows") || [];
    this.host = {cpus: [], tiers: [], ...this.model.get("_host")};
    this.parsed = new Map(this.rows.map((row) => [row.id, parse(row.allowed)]));
    this.wished = new Map(Object.entries(this.model.get("_wished") || {}).map(([id, text]) => [id, parse(text)]));
    this.marks = this.model.get("_marks") || {};
    this.layout();
    this.elements();
    this.speak();
    this.fresh();
  }

  lines() {
    const found = [], own = this.rows.filter((row) => row.guest !== null), others = this.rows.filter((row) => row.guest === null);
    own.forEach((row, n) => found.push({row, number: this.rows.indexOf(row), first: !n || own[n - 1].guest !== row.guest}));
    if (others.length) found.push({others, first: true});
    if (others.length && !this.othersFolded) others.forEach((row) => found.push({row, number: this.rows.indexOf(row)}));
    return found;
  }

  layout() {
    const width = this.box.clientWidth || 800, narrow = width < 560, cpus = this.host.cpus;
    this.narrow = narrow;
    this.nameWidth = this.namesWidth(narrow);
    const right = narrow ? 104 : 250, room = width - this.nameWidth - 12 - right - 14;
    const smt = new Set(cpus.map((cpu) => String(cpu.core))).size < cpus.length;
    this.shown = this.level || (smt && cpus.length * 10 > room && cpus.length > 64 ? "core" : "cpu");
    this.columns.hidden = !(smt && cpus.length > 16);
    this.columns.value = this.shown;
    this.cols = this.groups();
    const gaps = (tight) => this.cols.reduce((sum, col) => sum + (col.breaks === 0 ? (tight ? 1 : 3) : col.breaks === 1 ? (tight ? 2 : 8) : tight ? 6 : 14), 0);
    const tight = this.cols.length * 17 + gaps(false) > room;
    const most = this.cols.length <= 4 ? 76 : this.cols.length <= 8 ? 56 : 40;
    this.cellWidth = Math.max(!narrow ? 9 : this.cols.length > 16 ? 16 : 30, Math.min(most, Math.floor((room - gaps(tight)) / Math.max(1, this.cols.length))));
    let x = this.nameWidth + 12;
    for (const col of this.cols) {
      x += col.breaks === 0 ? (tight ? 1 : 3) : col.breaks === 1 ? (tight ? 2 : 8) : tight ? 6 : 14;
      Object.assign(col, {x, w: this.cellWidth});
      x += this.cellWidth;
    }
    this.cellsEnd = x;
    this.meter = {x: x + 18, w: narrow ? 44 : Math.max(90, Math.min(200, width - x - 18 - 130))};
    this.width = Math.max(width, this.meter.x + this.meter.w + (narrow ? 46 : 124));
    this.place();
  }

  // The tiers of the header that have room for a word, each with its number among all: cores of 9 pixels need none.
  fittingTiers() {
    const ctx = this.headCanvas.getContext("2d");
    ctx.font = this.font(11);
    const fits = ([first, count, , texts]) => ctx.measureText(texts.at(-1)).width < this.spanWidth(first, count) - 4;
    return this.host.tiers.map((spans, tier) => ({spans, tier})).filter(({spans}) => (spans[0][2] === "core" ? spans.every(fits) : spans.some(fits)));
  }

  spanWidth(first, count) {
    const [from, to] = [this.cols[this.colOf[first]], this.cols[this.colOf[first + count - 1]]];
    return to.x + to.w - from.x;
  }

  namesWidth(narrow) {
    const ctx = this.headCanvas.getContext("2d");
    ctx.font = this.font(narrow ? 11.5 : 13, 700);
    const widest = (texts) => Math.max(0, ...texts.map((text) => ctx.measureText(text).width));
    const guests = Math.min(narrow ? 42 : 130, widest(this.rows.map((row) => row.guest || ""))), own = this.rows.filter((row) => row.guest !== null);
    const whos = Math.min(narrow ? 54 : 110, Math.max(narrow ? 40 : 62, widest(own.map((row) => this.short(row)))));
    this.guestWidth = Math.ceil(guests);
    return Math.max(narrow ? 96 : 136, Math.ceil(guests + whos + (narrow ? 20 : 34)));
  }

  short(row) { return this.narrow ? row.who.replace("I/O thread", "I/O") : row.who; }

  place() {
    this.tiers = this.fittingTiers();
    this.headHeight = 20 * this.tiers.length + 20 + 34;
    const items = this.lines(), before = (this.items || []).map(nameOf);
    this.rowHeight = items.length > 40 ? 19 : items.length > 24 ? 22 : 27;
    let y = 7;
    this.items = items.map((item, n) => {
      y += item.first && n ? 9 : 0;
      const placed = {...item, y, h: this.rowHeight};
      y += this.rowHeight;
      return placed;
    });
    this.special = this.host.cpus.some((cpu) => cpu.special);
    this.height = y + (this.special ? 20 : 6);
    this.hold(before);
  }

  // After rows or columns came or went: the cursor stays on the row and the CPU that it was on.
  hold(before) {
    const names = this.items.map(nameOf), {id, cpu} = this.at, known = id !== undefined;
    let row = known ? names.indexOf(id) : this.at.row;
    if (row < 0) {
      const [near] = before.map((name, n) => [names.indexOf(name), Math.abs(n - this.at.row - 0.1)]).filter(([now]) => now >= 0).sort((a, b) => a[1] - b[1]);
      row = near ? near[0] : 0;
      if (names.length && this.hasFocus()) this.said.textContent = `${id} is gone. The cursor is on ${names[row]} now.`;
    }
    const place = this.host.cpus.findIndex((one) => one.cpu === cpu);
    this.point(row, place < 0 ? this.at.col : this.colOf[place], cpu);
    if (before.join() === names.join()) return;
    this.over = this.tapped = null;
    if (this.stroke) this.commit(); // its rows are elsewhere now
  }

  point(row, col, cpu) {
    const within = (number, count) => Math.max(0, Math.min(count - 1, number));
    this.at = {row: within(row, this.items.length), col: within(col, this.cols.length)};
    const cpus = this.cols[this.at.col]?.cpus || [];
    Object.assign(this.at, {id: this.items.length ? nameOf(this.items[this.at.row]) : undefined, cpu: cpus.includes(cpu) ? cpu : cpus[0]});
  }

  // The columns that are shown: each CPU, or all of a core or of a box that is folded. breaks: how much ends before it.
  groups() {
    const cpus = this.host.cpus, found = [], start = new Map(), inner = this.host.tiers.length - 1;
    this.host.tiers.forEach((spans, tier) => spans.forEach(([first, count], n) => {
      if (this.folded.has(`${tier}:${n}`)) for (let i = first; i < first + count; i++) if (!start.has(i)) start.set(i, first);
    }));
    const key = (i) => (start.has(i) ? `box ${start.get(i)}` : this.shown === "core" && cpus[i].core[2] !== null ? `core ${cpus[i].core}` : `cpu ${i}`);
    const ends = cpus.map(() => 0);
    this.host.tiers.forEach((spans, tier) => spans.forEach(([first]) => { ends[first] = Math.max(ends[first], tier < inner ? 2 : 1); }));
    cpus.forEach((cpu, i) => {
      if (found.length && found.at(-1).key === key(i)) found.at(-1).places.push(i);
      else found.push({key: key(i), places: [i], breaks: i ? ends[i] : 0});
    });
    if (found.length === cpus.length) {
      const alone = this.host.tiers[inner]?.every(([, count]) => count === 1);
      if (alone && found.length > 16) for (const col of found) if (col.breaks === 1) col.breaks = 0;
    }
    this.colOf = [];
    found.forEach((col, n) => {
      col.cpus = col.places.map((place) => cpus[place].cpu);
      col.name = col.cpus.length === 1 ? `CPU ${col.cpus[0]}` : `CPUs ${format(col.cpus)}`;
      col.special = col.places.every((place) => cpus[place].special) ? cpus[col.places[0]].special : "";
      for (const place of col.places) this.colOf[place] = n;
    });
    return found;
  }

  elements() {
    Object.assign(this.head.style, {height: `${this.headHeight}px`, width: `${this.width}px`});
    Object.assign(this.corner.style, {width: `${this.nameWidth}px`});
    Object.assign(this.body.style, {height: `${this.height}px`, width: `${this.width}px`});
    this.bodyCanvas.style.top = `${this.headHeight}px`;
    this.root.style.setProperty("--kl-font", `${this.rowHeight < 20 ? 11 : this.narrow ? 11.5 : 13}px`);
    this.corner.replaceChildren();
    const label = (text, y) => { make("span", "", text, this.corner).style.top = `${y}px`; };
    label(this.cols.every((col) => col.cpus.length === 1) ? "host CPU" : this.narrow ? "first CPU" : "core, by first CPU", 20 * this.tiers.length + 1);
    label(this.narrow ? "busy" : "busy with all work", 20 * this.tiers.length + 30);
    this.grid.setAttribute("aria-rowcount", this.items.length);
    this.grid.setAttribute("aria-colcount", this.cols.length + 1);
    const had = this.grid.contains(document.activeElement) && document.activeElement !== document.body;
    const onFold = had && document.activeElement.classList.contains("kl-fold");
    const key = JSON.stringify([this.items.map((item) => [item.row?.id, item.row?.locked, item.others && item.others.length, item.y]), this.width, this.nameWidth, this.othersFolded]);
    if (key !== this.builtFor) {
      this.builtFor = key;
      for (const old of this.body.querySelectorAll(".kl-row")) old.remove();
      this.rowElements = this.items.map((item, n) => this.rowElement(item, n));
      this.builtCells = null;
    }
    this.cells();
    if (had) (onFold && this.body.querySelector(".kl-fold") ? this.body.querySelector(".kl-fold") : this).focus();
    if (!this.items.length) this.empty();
  }

  empty() {
    const row = make("div", "kl-row", "", this.body);
    make("span", "", "No guest runs: lab.start('c1', vcpus=2) starts one.", row);
    this.rowElements = [];
    this.body.style.height = "32px";
  }

  rowElement(item, n) {
    const element = make("div", "kl-row", "", this.body);
    element.setAttribute("role", "row");
    element.setAttribute("aria-rowindex", n + 1);
    Object.assign(element.style, {top: `${item.y}px`, height: `${item.h}px`, width: `${this.width}px`});
    const name = make("div", "kl-name", "", element);
    name.setAttribute("role", "rowheader");
    name.setAttribute("aria-colindex", "1");
    name.style.width = `${this.nameWidth}px`;
    if (item.others) {
      name.classList.add("kl-fold");
      Object.assign(name, {tabIndex: 0, title: "Busy threads that belong to no guest"});
      name.setAttribute("aria-expanded", String(!this.othersFolded));
      make("span", "", `${this.othersFolded ? "▸" : "▾"} noisy others: ${item.others.length}`, name);
      name.onclick = () => this.unfold();
      name.onkeydown = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); event.stopPropagation(); this.unfold(); } };
      return element;
    }
    const guest = make("b", "", item.first ? item.row.guest : "", name);
    Object.assign(guest, {title: item.row.guest || ""}).style.width = `${item.row.guest === null ? 6 : this.guestWidth + 2}px`;
    make("span", "", this.short(item.row), name);
    make("i", "", "", name).setAttribute("aria-hidden", "true"); // `warn` says it
    name.classList.toggle("kl-locked", Boolean(item.row.locked));
    name.title = item.row.locked ? `cannot be moved: ${item.row.locked}` : "";
    return element;
  }

  columnsChosen() {
    this.level = this.columns.value;
    this.folded.clear();
    this.changed();
    this.reveal();
  }

  unfold() {
    this.othersFolded = !this.othersFolded;
    this.changed();
    this.body.querySelector(".kl-fold")?.focus();
  }

  // Cells as elements: those of one row only, the one that has or would get the focus.
  cells() {
    const item = this.items[this.at.row], row = this.rowElements[this.at.row];
    const key = `${this.builtFor} ${this.at.row} ${this.cols.map((col) => col.x)}`;
    if (this.builtCells === key) return this.labels();
    this.builtCells = key;
    for (const old of this.body.querySelectorAll(".kl-cell")) old.remove();
    this.cellElements = [];
    if (!item?.row || !row) return;
    this.cellElements = this.cols.map((col, n) => {
      const cell = make("div", "kl-cell", "", row);
      cell.setAttribute("role", "gridcell");
      cell.setAttribute("aria-colindex", n + 2);
      if (item.row.locked) cell.setAttribute("aria-readonly", "true");
      Object.assign(cell.style, {left: `${col.x}px`, width: `${col.w}px`});
      return cell;
    });
    this.labels();
  }

  labels() {
    const item = this.items[this.at.row];
    if (!item?.row) return;
    this.cellElements.forEach((cell, n) => {
      const label = this.say(item, this.cols[n]);
      if (cell.getAttribute("aria-label") !== label) cell.setAttribute("aria-label", label);
      cell.setAttribute("aria-selected", String(this.state(item.row, this.cols[n]).will === 1));
      cell.tabIndex = n === this.at.col ? 0 : -1;
    });
  }

  focus() {
    this.cells();
    const cell = this.cellElements?.[this.at.col] || this.rowElements[this.at.row]?.querySelector(".kl-fold");
    cell?.focus({preventScroll: true});
    this.reveal();
  }

  reveal() {
    const item = this.items[this.at.row], col = this.cols[this.at.col], {box} = this;
    if (!item || !col) return;
    const [left, right] = [box.scrollLeft + this.nameWidth + 12, box.scrollLeft + box.clientWidth];
    if (col.x < left + 4) box.scrollLeft += col.x - left - 12;
    else if (col.x + col.w > right - 4) box.scrollLeft += col.x + col.w - right + 12;
    const bottom = box.scrollTop + box.clientHeight - this.headHeight;
    if (item.y < box.scrollTop + 4) box.scrollTop = item.y - 8;
    else if (item.y + item.h > bottom) box.scrollTop += item.y + item.h - bottom + 8;
  }

  // How much of the column a row may use now and is to use: 0 to 1.
  state(row, col) {
    const now = this.parsed.get(row.id) || new Set(), wished = this.wished.get(row.id) || now;
    const share = (set) => col.cpus.filter((cpu) => set.has(cpu)).length / col.cpus.length;
    return {may: share(now), will: share(wished), wished: this.wished.has(row.id)};
  }

  numbers(item, col) {
    if (item.row && col.places.length === 1) {
      const cell = this.seen?.cells[item.number]?.get(col.places[0]);
      return {ran: cell?.[0] ?? 0, waited: cell?.[1] ?? 0};
    }
    let ran = 0, waited = 0;
    for (const number of item.row ? [item.number] : item.others.map((row) => this.rows.indexOf(row))) {
      for (const place of col.places) {
        const cell = this.seen?.cells[number]?.get(place);
        if (cell) { ran += cell[0]; waited += cell[1]; }
      }
    }
    return {ran, waited};
  }

  say(item, col) {
    const {ran, waited} = this.numbers(item, col);
    if (!item.row) return `noisy others, ${col.name}, ran ${ran} %`;
    const {may, will} = this.state(item.row, col), name = item.row.guest === null ? `${item.row.who} (${item.row.id})` : item.row.id;
    const words = [name, col.name, may === 1 ? "may run" : may ? `may run on ${Math.round(may * col.cpus.length)} of them` : "may not run"];
    if (ran || waited) words.push(`ran ${ran} %`);
    if (waited) words.push(`waited ${waited} %`);
    if (will > may) words.push("will be given");
    if (will < may) words.push("will be taken away");
    if (may && this.marks[item.row.id] === item.row.allowed) words.push("as applied");
    if (col.special) words.push(col.special);
    return words.join(", ");
  }

  // ---- painting

  fresh() {
    const seen = unpack(this.model.get("_live"));
    if (seen && seen.rows === this.rows.length && seen.cpus === this.host.cpus.length) this.seen = seen;
    else this.seen = null;
    this.redraw();
  }

  redraw() {
    if (this.frame || this.closed) return;
    this.frame = requestAnimationFrame(() => { this.frame = 0; this.draw(); });
  }

  sheet(canvas, width, height) {
    const ratio = window.devicePixelRatio || 1, [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, {width: w, height: h});
    Object.assign(canvas.style, {width: `${width}px`, height: `${height}px`});
    const ctx = canvas.getContext("2d");
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, width, height);
    return ctx;
  }

  draw() {
    const {clientWidth: width, clientHeight, scrollLeft: left, scrollTop: top} = this.box;
    if (!width || !this.cols) return;
    const head = this.sheet(this.headCanvas, width, this.headHeight);
    this.headCanvas.style.left = `${left}px`;
    head.translate(-left, 0);
    this.drawHead(head);
    const height = Math.min(this.height, Math.max(40, clientHeight - this.headHeight));
    const body = this.sheet(this.bodyCanvas, width, height);
    body.translate(-left, -top);
    this.drawBody(body, left, top, width, height);
    this.readOut();
    const cell = this.cellElements?.[this.at.col];
    if (cell && document.activeElement === cell) this.labels();
  }

  font(size, weight = 400) { return `${weight} ${size}px system-ui, "Segoe UI", Helvetica, Arial, sans-serif`; }

  drawHead(ctx) {
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    this.drawSpecial(ctx, 20 * this.tiers.length, this.headHeight);
    this.tiers.forEach(({spans, tier}, line) => spans.forEach(([first, count, , texts], n) => {
      const from = this.cols[this.colOf[first]], y = 20 * line, w = this.spanWidth(first, count);
      ctx.fillStyle = line === 0 ? this.ink.outer : this.ink.inner;
      this.rounded(ctx, from.x, y, w, 17, 4);
      ctx.fill();
      ctx.fillStyle = this.ink.ink;
      ctx.font = this.font(11);
      const folded = this.folded.has(`${tier}:${n}`) ? "+ " : "";
      const text = texts.find((one) => ctx.measureText(folded + one).width < w - 6);
      const middle = this.visibleMiddle(from.x, w, text ? ctx.measureText(text).width : 0);
      if (text) ctx.fillText(folded + text, middle, y + 9);
    }));
    const y = 20 * this.tiers.length;
    const widest = Math.max(0, ...this.cols.map((col) => this.colText(col).length)), every = this.every(widest);
    const hot = this.hot()?.col;
    this.cols.forEach((col, n) => {
      const middle = col.x + col.w / 2, over = hot === n;
      ctx.fillStyle = over ? this.ink.plan : this.ink.ink;
      ctx.font = this.font(this.cellWidth < 16 ? 9 : this.cellWidth < 22 ? 10 : 12, over ? 800 : 600);
      const near = hot !== undefined && Math.abs(hot - n) < every;
      if (over || (n % every === 0 && !near)) ctx.fillText(this.colText(col), middle, y + 10);
      this.drawBusy(ctx, col, y + 22);
    });
    const {meter} = this;
    ctx.textAlign = "left";
    ctx.fillStyle = this.ink.muted;
    ctx.font = this.font(12);
    ctx.fillText(meter.w < 130 ? "its time" : "where its time went", meter.x, y + 38);
    ctx.textAlign = "right";
    ctx.fillText("waits", meter.x + meter.w + 44, y + 38);
    if (!this.narrow) ctx.fillText("moves/s", meter.x + meter.w + 108, y + 38);
  }

  // A label of a wide box stays in sight while it is scrolled.
  visibleMiddle(x, w, text) {
    const [left, right] = [this.box.scrollLeft + this.nameWidth + 8, this.box.scrollLeft + this.box.clientWidth];
    const [from, to] = [Math.max(x, left), Math.min(x + w, right)];
    return to - from > text + 8 ? (from + to) / 2 : x + w / 2;
  }

  colText(col) { return `${col.cpus[0]}`; }

  every(widest) {
    const needs = widest * (this.cellWidth < 16 ? 5.6 : 7) + 3;
    return Math.max(1, Math.ceil(needs / (this.cellWidth + 1)));
  }

  drawBusy(ctx, col, y) {
    const values = col.places.map((place) => this.seen?.busy[place] ?? 0), busy = values.reduce((a, b) => a + b, 0) / values.length;
    const pad = this.cellWidth > 20 ? 4 : 0, h = 24;
    ctx.fillStyle = this.ink.inner;
    ctx.fillRect(col.x + pad, y, col.w - 2 * pad, h);
    ctx.fillStyle = this.ink.busy;
    ctx.fillRect(col.x + pad, y + h - (h * Math.min(100, busy)) / 100, col.w - 2 * pad, (h * Math.min(100, busy)) / 100);
    if (this.cellWidth >= 38) {
      ctx.font = this.font(11);
      ctx.fillStyle = busy > 62 ? this.ink.bg : this.ink.muted;
      ctx.fillText(`${Math.round(busy)} %`, col.x + col.w / 2, y + h / 2 + 1);
    }
  }

  drawSpecial(ctx, from, to, names = false) {
    let run = null;
    const end = () => {
      if (!run) return;
      ctx.fillStyle = this.ink.isolated;
      ctx.fillRect(run.x - 2, from, run.to - run.x + 4, to - from);
      ctx.fillStyle = this.ink["isolated-ink"];
      ctx.font = this.font(11);
      ctx.textAlign = "center";
      const word = names && [run.special, "isolated", "iso."].find((one) => ctx.measureText(one).width < Math.max(run.to - run.x + 10, 20));
      if (word && run.special.includes(word.slice(0, 3))) ctx.fillText(word, (run.x + run.to) / 2, to - 9);
      run = null;
    };
    for (const col of this.cols) {
      if (run && (col.special !== run.special || col.breaks > 1)) end();
      if (col.special) run = run ? {...run, to: col.x + col.w} : {x: col.x, to: col.x + col.w, special: col.special};
    }
    end();
  }

  drawBody(ctx, left, top, width, height) {
    ctx.textBaseline = "middle";
    this.drawSpecial(ctx, 0, this.height, true);
    const hot = this.hot();
    if (hot?.col !== undefined && this.cols[hot.col]) {
      ctx.fillStyle = this.ink.hover;
      ctx.fillRect(this.cols[hot.col].x - 2, 0, this.cols[hot.col].w + 4, this.height);
    }
    this.items.forEach((item, n) => {
      if (item.y + item.h < top || item.y > top + height) return;
      const over = hot?.row === n || this.told?.rows.has(item.row?.id);
      if (over) {
        ctx.fillStyle = this.ink.hover;
        ctx.fillRect(0, item.y, this.width, item.h);
      }
      this.rowElements[n]?.firstChild.classList.toggle("kl-over", Boolean(over));
      for (const col of this.cols) if (col.x + col.w > left + this.nameWidth - 20 && col.x < left + width) this.drawCell(ctx, item, col);
      this.drawMeter(ctx, item);
    });
  }

  rounded(ctx, x, y, w, h, r) {
    ctx.beginPath();
    ctx.roundRect(x, y, w, h, Math.min(r, w / 3));
  }

  drawCell(ctx, item, col) {
    const small = this.cellWidth < 14, y = item.y + (this.rowHeight > 22 ? 3 : 1), h = item.h - (this.rowHeight > 22 ? 6 : 2), {x, w} = col;
    const {ran, waited} = this.numbers(item, col), {may, will} = item.row ? this.state(item.row, col) : {may: 0, will: 0};
    const size = col.cpus.length;
    const [inside, edge] = will ? [this.ink.may, this.ink["may-edge"]] : [this.ink.cell, this.ink.edge];
    if (small) { // thousands of them: rounded ones take four times as long
      ctx.fillStyle = edge;
      ctx.fillRect(x, y, w, h);
      ctx.fillStyle = inside;
      ctx.fillRect(x + 1, y + 1, w - 2, h - 2);
    } else {
      this.rounded(ctx, x, y, w, h, 5);
      ctx.fillStyle = inside;
      ctx.fill();
      ctx.strokeStyle = edge;
      ctx.lineWidth = 1;
      ctx.stroke();
    }
    if (will > 0 && will < 1) {
      ctx.fillStyle = this.ink.cell;
      ctx.fillRect(x + w * will, y + 1, w * (1 - will) - 1, h - 2);
    }
    this.drawRan(ctx, {x: x + 1, y: y + 1, w: w - 2, h: h - 2}, ran / size, waited / size, item);
    if (item.row && will !== may) this.drawWish(ctx, x, y, w, h, will > may);
    else if (may && this.marks[item.row?.id] === item.row?.allowed) this.drawMark(ctx, x, y, w);
    if (this.told?.cpus.size && this.told.rows.has(item.row?.id) && col.cpus.some((cpu) => this.told.cpus.has(cpu)) && will) {
      ctx.strokeStyle = this.ink.warning;
      ctx.lineWidth = 2;
      this.rounded(ctx, x - 1, y - 1, w + 2, h + 2, 6);
      ctx.stroke();
    }
  }

  drawRan(ctx, {x, y, w, h}, ran, waited, item) {
    const [up, more] = [(h * Math.min(100, ran)) / 100, (h * Math.min(100 - Math.min(100, ran), waited)) / 100];
    if (ran + waited < 0.5) return;
    const small = this.cellWidth < 14;
    ctx.save();
    if (!small) {
      this.rounded(ctx, x, y, w, h, 4);
      ctx.clip();
    }
    ctx.fillStyle = item.row && item.row.guest !== null ? this.ink.ran : this.ink.busy;
    ctx.fillRect(x, y + h - Math.max(1.5, up), w, Math.max(1.5, up));
    ctx.fillStyle = this.ink.waiting;
    ctx.fillRect(x, y + h - up - more, w, more);
    ctx.restore();
    if (this.cellWidth < 36 || ran < 1) return;
    ctx.font = this.font(11, 600);
    ctx.textAlign = "center";
    const covered = ran + waited > 55;
    ctx.fillStyle = covered ? "#ffffff" : this.ink.ink;
    ctx.strokeStyle = covered ? "rgba(15, 25, 35, 0.5)" : this.ink.may;
    ctx.lineWidth = 2.5;
    ctx.lineJoin = "round";
    ctx.strokeText(`${Math.round(ran)} %`, x + w / 2, y + h / 2 + 0.5);
    ctx.fillText(`${Math.round(ran)} %`, x + w / 2, y + h / 2 + 0.5);
  }

  drawWish(ctx, x, y, w, h, given) {
    ctx.strokeStyle = this.ink.plan;
    ctx.lineWidth = 2;
    ctx.setLineDash(given ? [] : [3, 2]);
    this.rounded(ctx, x, y, w, h, 5);
    ctx.stroke();
    ctx.setLineDash([]);
  }

  drawMark(ctx, x, y, w) {
    ctx.strokeStyle = this.ink.good;
    if (w < 16) {
      ctx.fillStyle = this.ink.good;
      ctx.fillRect(x + w - 4, y, 4, 4);
      return;
    }
    const [right, top] = [x + w - 5, y + 3];
    for (const [width, colour] of [[4.5, this.ink.bg], [2, this.ink.good]]) {
      ctx.strokeStyle = colour;
      ctx.lineWidth = width;
      ctx.beginPath();
      ctx.moveTo(right - 6, top);
      ctx.lineTo(right - 3.5, top + 3);
      ctx.lineTo(right + 2, top - 4);
      ctx.stroke();
    }
  }

  drawMeter(ctx, item) {
    const {meter} = this, y = item.y + item.h / 2 - 6, h = 12, middle = item.y + item.h / 2 + 1;
    if (item.others) {
      let sum = 0;
      for (const row of item.others) for (const [ran] of this.seen?.cells[this.rows.indexOf(row)]?.values() || []) sum += ran;
      ctx.fillStyle = this.ink.muted;
      ctx.font = this.font(12);
      ctx.textAlign = "left";
      ctx.fillText(this.narrow ? `${sum} %` : `${sum} % of a CPU together`, meter.x, middle);
      return;
    }
    const went = this.seen?.went[item.number];
    ctx.font = this.font(12);
    ctx.textAlign = "right";
    if (!went || went[0] === UNKNOWN) return;
    const parts = went.slice(0, 5).map((part) => (part === UNKNOWN ? 0 : part)), whole = Math.max(1000, parts.reduce((a, b) => a + b, 0));
    let x = meter.x;
    PARTS.forEach((part, n) => {
      const w = (meter.w * parts[n]) / whole;
      ctx.fillStyle = this.ink[part === "ran" && item.row.guest === null ? "user" : part];
      ctx.fillRect(x, y, w, h);
      x += w;
    });
    const waits = went[3];
    ctx.fillStyle = waits !== UNKNOWN && waits > 100 ? this.ink.bad : this.ink.ink;
    ctx.fillText(waits === UNKNOWN ? "–" : `${Math.round(waits / 10)} %`, meter.x + meter.w + 44, middle);
    ctx.fillStyle = this.ink.ink;
    if (!this.narrow) ctx.fillText(went[5] === UNKNOWN ? "–" : went[5] >= 100 ? Math.round(went[5] / 10) : (went[5] / 10).toFixed(1), meter.x + meter.w + 108, middle);
  }

  hasFocus() { return this.cellElements?.includes(document.activeElement); }

  hot() { return this.over || (this.hasFocus() ? this.at : null); }

  // The cell under the cursor in words, however small it is.
  readOut() {
    const hot = this.hot(), item = hot && this.items[hot.row], col = hot && this.cols[hot.col];
    let text = "";
    if (item && col) {
      const [name, cpu, ...rest] = this.say(item, col).split(", ");
      const place = col.cpus.length === 1 ? this.host.cpus[col.places[0]].where : "";
      text = `${name} on ${cpu}${place ? ` (${place})` : ""}: ${rest.join(", ")}${item.row?.locked ? `; cannot be moved: ${item.row.locked}` : ""}`;
    } else if (item?.row) text = `${item.row.id} may run on CPU ${item.row.allowed}`;
    if (this.readout.textContent !== text) this.readout.textContent = text;
  }

  // ---- words

  speak() {
    if (this.closed) return;
    const get = (name) => this.model.get(name), about = get("_about") || {}, ended = get("_ended"), told = get("_told") || {};
    const wishes = this.wished.size, empty = [...this.wished].find(([, cpus]) => !cpus.size);
    const current = JSON.stringify(told.for || {}) === JSON.stringify(get("_wished") || {});
    const linted = JSON.stringify(told.linted || {}) === JSON.stringify(get("_wished") || {});
    const messages = told.messages || [], stale = this.stale || Boolean(ended);
    const wrong = empty ? `${empty[0]} has no CPU left: leave it at least one.` : (current && told.error) || "";
    const errors = linted && wishes ? messages.filter((one) => one.severity === "error" && one.state === "new") : [];
    this.root.classList.toggle("kl-stale", stale);
    this.apply.textContent = this.pending === "apply" && !stale ? "Applying…" : wishes ? `Apply ${many(wishes, "change")}` : "Apply";
    this.apply.disabled = !wishes || Boolean(wrong) || errors.length > 0 || stale || Boolean(this.pending);
    this.apply.title = wrong || (errors.length ? "The linter calls this an error: see below" : "Make the kernel agree with the picture");
    const ask = get("_ask") === "undo";
    this.undo.textContent = ask ? "Undo all the same" : "Undo";
    this.undo.classList.toggle("kl-sure", ask);
    this.undo.disabled = !get("_undo_steps") || stale || Boolean(this.pending);
    this.undo.title = "Take the last change back";
    this.plan.disabled = stale || Boolean(this.pending);
    this.fillPlans(about.strategies || []);
    this.sayAbout(about, ended);
    this.sayStatus(ended);
    this.sayWords(messages, wrong, wishes, linted, (wishes && current && told.reasons) || []);
    this.sayTyped(told.commands || []);
    this.marksLegend.hidden = !Object.keys(this.marks).length;
    this.warn(messages);
  }

  fillPlans(strategies) {
    if (this.plan.options.length === strategies.length + 1) return;
    this.plan.replaceChildren();
    Object.assign(make("option", "", "Plan", this.plan), {value: "", hidden: true, selected: true});
    for (const one of strategies) make("option", "", PLANS[one] || one, this.plan).value = one;
    this.plan.style.width = "74px";
  }

  sayAbout(about, ended) {
    const vcpus = this.rows.filter((row) => row.kind === "vcpu"), guests = new Set(this.rows.map((row) => row.guest).filter((name) => name !== null));
    const ratio = this.host.cpus.length ? (vcpus.length / this.host.cpus.length).toFixed(1) : "";
    const words = [about.uri, `${many(guests.size, "guest")}, ${many(vcpus.length, "vCPU")} on ${many(this.host.cpus.length, "CPU")}`, `over-commit ${ratio}`, about.accel];
    this.about.textContent = words.filter(Boolean).join(" · ");
    const seconds = Math.round((performance.now() - this.news) / 1000);
    this.live.textContent = ended ? "ended" : this.stale ? `no news for ${seconds} s` : "live, last 5 s";
    this.live.title = this.stale ? "The kernel is busy with a cell, or it was restarted: then run this cell again." : "";
  }

  sayStatus(ended) {
    const status = this.model.get("_status") || {}, silent = this.stale && !ended;
    const text = ended || (silent ? "No news from the kernel: it is busy with a cell, or it was restarted. If it was, run this cell again." : status.text || "");
    const tone = ended || silent ? "" : status.tone;
    if (this.status.textContent !== text) this.status.textContent = text;
    this.status.className = `kl-status${tone ? ` kl-${tone}` : ""}`;
  }

  sayWords(messages, wrong, wishes, linted, reasons) {
    const key = JSON.stringify([messages, wrong, Boolean(wishes), linted, reasons]);
    if (key === this.wordsFor) return;
    this.wordsFor = key;
    this.words.replaceChildren();
    make("h4", "", wishes ? "Before you apply" : "As it is now", this.words);
    const list = make("ul", "", "", this.words);
    const line = (kind, text, rule, source, old) => {
      const item = make("li", `kl-${kind}${old ? " kl-old" : ""}`, "", list);
      const sign = make("i", "", SIGNS[kind], item);
      sign.setAttribute("role", "img");
      sign.setAttribute("aria-label", kind);
      const words = make("span", "", `${text} `, item);
      if (rule) make("code", "", `(${rule})`, words).title = source || "";
      return item;
    };
    if (wrong) line("error", wrong);
    for (const one of messages) {
      const solved = one.state === "solved", text = `${solved ? "Solved: " : ""}${one.why}`;
      const item = line(solved ? "solved" : one.severity, text, one.rule, one.source, wishes && one.state === "stays");
      item.onpointerenter = () => { this.told = {rows: new Set(one.vcpus.split(", ")), cpus: parse(one.cpus)}; this.redraw(); };
      item.onpointerleave = () => { this.told = null; this.redraw(); };
    }
    if (!list.children.length) line("solved", wishes ? (linted ? "Nothing speaks against it." : "…") : "Nothing to complain about.");
    if (!reasons.length) return;
    const why = make("details", "kl-why", "", this.words);
    make("summary", "", "Why this plan", why);
    const told = make("ul", "", "", why);
    for (const one of reasons) make("li", "", one, told);
  }

  sayTyped(commands) {
    const key = commands.join("\n");
    if (key === this.typedFor) return;
    this.typedFor = key;
    this.typed.replaceChildren();
    if (!commands.length) return;
    const title = make("h4", "", "The same, typed", this.typed), copy = make("button", "kl-copy", "copy", title);
    make("pre", "", key, this.typed);
    copy.onclick = async () => {
      try { await navigator.clipboard.writeText(`${key}\n`); } catch { this.copyOld(key); }
      copy.textContent = "copied";
      setTimeout(() => { copy.textContent = "copy"; }, 1500);
    };
  }

  copyOld(text) {
    const area = make("textarea", "kl-said", "", this.root);
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  }

  // A sign on the rows that the linter speaks of.
  warn(messages) {
    const worst = new Map();
    for (const one of messages) {
      if (one.state === "solved" || one.severity === "note") continue;
      for (const name of one.vcpus.split(", ")) if (worst.get(name) !== "error") worst.set(name, one.severity);
    }
    this.items?.forEach((item, n) => {
      const sign = this.rowElements[n]?.querySelector(".kl-name i"), kind = worst.get(item.row?.id);
      if (!sign) return;
      sign.parentElement.setAttribute("aria-label", [nameOf(item), kind].filter(Boolean).join(", ")); // the guest stands on its first row only
      sign.textContent = kind ? SIGNS[kind] : "";
      sign.style.color = kind === "error" ? "var(--kl-bad)" : "var(--kl-warning)";
    });
  }

  // ---- arranging

  set(row, col, may) {
    if (row.locked) return false;
    const now = this.parsed.get(row.id), cpus = new Set(this.wished.get(row.id) || now);
    for (const cpu of col ? col.cpus : this.host.cpus.map((one) => one.cpu)) if (may) cpus.add(cpu); else cpus.delete(cpu);
    const wished = {...this.model.get("_wished")};
    if (same(cpus, now)) delete wished[row.id]; else wished[row.id] = format(cpus);
    this.model.set("_wished", wished);
    return true;
  }

  commit() {
    this.stroke = null;
    this.model.save_changes();
  }

  toggle(item, col) {
    if (!item?.row) return;
    if (item.row.locked) { this.said.textContent = `${item.row.id} cannot be moved: ${item.row.locked}`; return; }
    this.set(item.row, col, this.state(item.row, col).will < 1);
    this.commit();
    this.said.textContent = this.say(item, col);
  }

  hit(event) {
    const rect = this.body.getBoundingClientRect(), x = event.clientX - rect.left, y = event.clientY - rect.top;
    const row = this.items.findIndex((item) => y >= item.y && y < item.y + item.h);
    if (event.clientX < this.box.getBoundingClientRect().left + this.nameWidth) return {row, col: -1};
    return {row, col: this.cols.findIndex((col) => x >= col.x - 2 && x < col.x + col.w + 2)};
  }

  down(event) {
    const {row, col} = this.hit(event);
    if (event.button !== 0 || row < 0 || col < 0 || !this.items[row].row) return;
    this.point(row, col);
    event.preventDefault();
    this.focus();
    if (event.pointerType === "touch") { this.tapped = {row, col}; return; } // a finger scrolls; a tap toggles
    const item = this.items[row];
    this.stroke = {may: this.state(item.row, this.cols[col]).will < 1, row, col};
    this.body.setPointerCapture(event.pointerId);
    this.paint(row, col);
  }

  paint(row, col) {
    const item = this.items[row];
    if (item?.row && this.cols[col]) this.set(item.row, this.cols[col], this.stroke.may);
  }

  move(event) {
    const {row, col} = this.hit(event);
    const over = row < 0 ? null : {row, col: col < 0 ? undefined : col};
    if (JSON.stringify(over) !== JSON.stringify(this.over)) { this.over = over; this.redraw(); }
    if (!this.stroke || row < 0 || col < 0) return;
    const {row: r, col: c} = this.stroke, steps = Math.max(Math.abs(row - r), Math.abs(col - c));
    for (let i = 1; i <= steps; i++) this.paint(Math.round(r + ((row - r) * i) / steps), Math.round(c + ((col - c) * i) / steps));
    Object.assign(this.stroke, {row, col});
  }

  up(event) {
    const {row, col} = this.hit(event), {tapped} = this;
    this.tapped = null;
    if (tapped && tapped.row === row && tapped.col === col) this.toggle(this.items[row], this.cols[col]);
    if (this.stroke) this.commit();
  }

  bandAt(event) {
    const rect = this.head.getBoundingClientRect(), x = event.clientX - rect.left, line = Math.floor((event.clientY - rect.top) / 20);
    const {spans, tier} = this.tiers[line] || {spans: []};
    const n = spans.findIndex(([first, count]) => {
      const [from, to] = [this.cols[this.colOf[first]], this.cols[this.colOf[first + count - 1]]];
      return x >= from.x && x <= to.x + to.w;
    });
    return n >= 0 && spans[n][1] > 1 ? `${tier}:${n}` : null;
  }

  fold(event) {
    const band = this.bandAt(event);
    if (!band) return;
    if (!this.folded.delete(band)) this.folded.add(band);
    this.changed();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const inGrid = this.hasFocus() || event.target.classList?.contains("kl-fold"), item = this.items[this.at.row], col = this.cols[this.at.col];
    const [down, right] = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key] || [0, 0];
    const rowOfFold = event.target.classList?.contains("kl-fold") ? this.items.findIndex((one) => one.others) : this.at.row;
    const deeds = {
      " ": () => this.toggle(item, col),
      Enter: () => { if (!this.apply.disabled && !event.repeat) this.press("apply"); },
      a: () => { if (item?.row && this.set(item.row, null, true)) this.commit(); },
      n: () => { if (item?.row && this.set(item.row, null, false)) this.commit(); },
      u: () => { if (!this.undo.disabled && !event.repeat) this.press("undo"); },
      Home: () => this.go(this.at.row, 0),
      End: () => this.go(this.at.row, this.cols.length - 1),
      PageUp: () => this.go(0, this.at.col),
      PageDown: () => this.go(this.items.length - 1, this.at.col),
    };
    if (event.key === "Escape") this.drop();
    else if (!inGrid) return;
    else if (down || right) this.go(rowOfFold + down, this.at.col + right);
    else if (deeds[event.key]) deeds[event.key]();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  go(row, col) {
    this.point(row, col);
    this.over = null;
    this.focus();
    this.redraw();
  }

  drop() {
    if (!this.wished.size) return;
    this.model.set("_wished", {});
    this.commit();
    this.said.textContent = "Wishes dropped.";
  }

  press(deed, more = {}) {
    if (this.stale || this.pending) return; // what was asked before has no answer yet
    if (document.activeElement === this.apply) this.focus(); // it will be disabled
    this.pending = this.send({do: deed, wished: this.model.get("_wished"), ...more}) ? deed : null;
    this.speak();
  }

  // Where a cell is on the screen, for tests.
  cellBox(name, cpu) {
    const item = this.items.find((one) => one.row?.id === name), col = this.cols[this.colOf[this.host.cpus.findIndex((one) => one.cpu === cpu)]];
    const rect = this.body.getBoundingClientRect();
    return {x: rect.left + col.x + col.w / 2, y: rect.top + item.y + item.h / 2};
  }
}

export default {
  render({model, el}) {
    const view = new View(model, el);
    return () => view.close();
  },
};
