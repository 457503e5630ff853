// The explorer that migvis.show.page writes. Frames are cells of one picture (the sheet); a frame's place in data.cells is its
// position on the axes (pair, group, gamma, draw[, dims, first, second]) read as a number of mixed radix.
(() => {
  "use strict";

  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  };
  const number = (x) => String(Number(x.toFixed(3))).replace("-", "\u2212");
  const token = Math.random().toString(36).slice(2, 8); // every explorer of a page brings this script: names must not clash
  let serial = 0;

  // Sheet: red, green and blue of a cell's pixels, drawing a cell, drawing a difference.
  function openSheet(data, picture) {
    const [height, width] = data.size;
    const corner = (cell) => [(cell % data.columns) * data.cell[1], Math.floor(cell / data.columns) * data.cell[0]];
    const known = new Map();
    const canvas = () => make("canvas", { width, height, role: "img" });
    const draw = (target, cell) => target.getContext("2d").drawImage(picture, ...corner(cell), width, height, 0, 0, width, height);
    const pixels = (cell) => {
      if (!known.has(cell)) {
        const scratch = make("canvas", { width, height });
        const context = scratch.getContext("2d", { willReadFrequently: true });
        context.drawImage(picture, ...corner(cell), width, height, 0, 0, width, height);
        known.set(cell, context.getImageData(0, 0, width, height).data.filter((_, i) => i % 4 !== 3));
      }
      return known.get(cell);
    };
    const rmse = (a, b) => {
      const [x, y] = [pixels(a), pixels(b)];
      return Math.sqrt(x.reduce((sum, value, i) => sum + (value - y[i]) ** 2, 0) / x.length) / 255;
    };
    const difference = (target, cell, from, up, down) => {
      const context = target.getContext("2d"), image = context.createImageData(width, height);
      const [x, y] = [pixels(cell), pixels(from)];
      for (let i = 0; i < x.length; i += 3) {
        const change = [0, 1, 2].map((k) => x[i + k] - y[i + k]), most = Math.max(...change.map(Math.abs));
        const added = () => change.map((d) => 127.5 * (1 + d / Math.max(most, 1)));
        image.data.set([...(data.colour ? added() : change[0] > 0 ? up : down), Math.min(255, most * 2)], 4 * (i / 3));
      }
      context.putImageData(image, 0, 0);
    };
    return { canvas, draw, rmse, difference };
  }

  // Controls. Each returns { node, show(value) }.
  function radios(legend, options, sheet, choose) {
    const name = `migvis-${token}-${++serial}`;
    const inputs = options.map((_, i) => make("input", { type: "radio", name, onchange: () => choose(i) }));
    const labels = options.map((option, i) => {
      const text = make("span");
      if (option.cell !== undefined) { const picture = sheet.canvas(); sheet.draw(picture, option.cell); picture.removeAttribute("role"); picture.setAttribute("aria-hidden", "true"); text.append(picture); }
      text.append(option.name);
      const label = make("label", { class: option.cell === undefined ? "mv-option" : "mv-option mv-thumb", title: option.name }, inputs[i], text);
      if (option.color) label.style.setProperty("--own", option.color);
      return label;
    });
    const node = make("fieldset", { class: "mv-control" }, make("legend", {}, legend), make("div", { class: "mv-options" }, ...labels));
    const show = (i, allowed) => {
      inputs[i].checked = true;
      if (allowed) inputs.forEach((input, k) => { input.disabled = !allowed.includes(k); labels[k].hidden = !allowed.includes(k); });
    };
    return { node, show };
  }
  function dropdown(label, options, choose) {
    const id = `migvis-${token}-${++serial}`;
    const items = options.map((option, i) => make("option", { value: i }, option.name));
    const select = make("select", { id, onchange: () => choose(Number(select.value)) }, ...items);
    const node = make("div", { class: "mv-control" }, make("label", { for: id }, label), select);
    const show = (i, allowed) => {
      select.value = i;
      if (allowed) items.forEach((item, k) => { item.disabled = item.hidden = !allowed.includes(k); });
    };
    return { node, show };
  }
  function slider(label, values, choose, play) {
    const id = `migvis-${token}-${++serial}`, last = values.length - 1;
    const shown = make("output", { for: id });
    const name = make("span", {}, label);
    const input = make("input", { type: "range", id, min: 0, max: last, step: 1, oninput: () => choose(Number(input.value)) });
    const ticks = make("div", { class: "mv-ticks", "aria-hidden": "true" }, ...values.map((value, i) => make("span", {}, last < 9 || i % last === 0 ? number(value) : "")));
    const track = make("div", { class: "mv-track" }, make("div", { class: "mv-rail" }, input, ticks));
    const node = make("div", { class: "mv-control mv-slide" }, make("label", { for: id }, name, shown), track);
    if (play) track.append(player(input, last, choose));
    const show = (i) => { input.value = i; shown.value = number(values[i]); input.setAttribute("aria-valuetext", number(values[i])); };
    return { node, show, rename: (text) => { name.textContent = text; } };
  }
  function player(input, last, choose) {
    let timer = null, way = 1;
    const button = make("button", { type: "button", class: "mv-play", "aria-label": "Play", title: "Play", onclick: () => (timer ? stop() : start()) }, "\u25B6");
    const tell = (text, sign) => { button.setAttribute("aria-label", text); button.title = text; button.textContent = sign; };
    const stop = () => { clearInterval(timer); timer = null; tell("Play", "\u25B6"); };
    const start = () => {
      tell("Pause", "\u275A\u275A");
      timer = setInterval(() => {
        if (!button.isConnected) return stop();
        const now = Number(input.value);
        if (now + way > last || now + way < 0) way = -way;
        choose(now + way);
      }, 650);
    };
    for (const event of ["pointerdown", "keydown"]) input.addEventListener(event, stop);
    return button;
  }
  const choice = (label, options, sheet, choose) => (options.length > 8 ? dropdown(label, options, choose) : radios(label, options, sheet, choose));

  // All frames of two axes at once, as buttons; the arrow keys move, and only the chosen one is a tab stop.
  function matrix(data, sheet, state, cellOf, choose, names) {
    const [rows, columns] = data.matrix;
    const order = [...data.values[rows].keys()];
    const sides = { first: 0, second: 1 };
    const say = (axis, i) => (axis in sides ? `${names("dims", state.dims, sides[axis])} at ${names(axis, i)}` : names(axis, i));
    if (rows === "second") order.reverse();
    const grid = make("div", { class: "mv-cells", role: "group", "aria-label": data.texts.matrix });
    grid.style.gridTemplateColumns = `fit-content(9rem) repeat(${data.values[columns].length}, minmax(2rem, 1fr))`;
    const corner = make("span", { class: "mv-row" });
    const heads = data.values[columns].map((value) => make("span", {}, number(value)));
    const cells = new Map(), labels = new Map();
    grid.append(corner, ...heads);
    for (const r of order) {
      const label = make("span", { class: "mv-row" }, names(rows, r));
      if (rows === "group") label.style.setProperty("--own", data.groups[r].color);
      labels.set(r, label);
      grid.append(label);
      heads.forEach((_, c) => {
        const picture = sheet.canvas();
        picture.removeAttribute("role");
        const button = make("button", { type: "button", class: "mv-cell", onclick: () => choose({ [rows]: r, [columns]: c }) }, picture);
        button.addEventListener("keydown", (event) => {
          const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
          const to = step && cells.get(`${order[order.indexOf(r) + step[0]]},${c + step[1]}`);
          if (step) event.preventDefault();
          if (to) { to.button.click(); to.button.focus(); }
        });
        cells.set(`${r},${c}`, { button, picture, r, c });
        grid.append(button);
      });
    }
    const show = () => {
      corner.textContent = rows === "second" ? `${names("dims", state.dims, 1)} \u2191  ${names("dims", state.dims, 0)} \u2192` : "\u03B3 =";
      for (const { button, picture, r, c } of cells.values()) {
        const here = state[rows] === r && state[columns] === c;
        sheet.draw(picture, cellOf({ [rows]: r, [columns]: c }));
        button.setAttribute("aria-pressed", here);
        button.tabIndex = here ? 0 : -1;
        button.setAttribute("aria-label", `${say(rows, r)}, ${say(columns, c)}`);
      }
    };
    return { node: make("div", { class: "mv-matrix" }, make("p", { class: "mv-name" }, data.texts.matrix), grid), show };
  }

  // The plane of two latent dimensions. Python drew the points; here the path is moved and the colours are chosen.
  function manifold(data, state) {
    const { planes, points, labels, fills, legends } = data.manifold;
    const plot = make("div"), legend = make("div", { class: "mv-legend" });
    let drawn = null, colour = 0;
    const show = () => {
      const key = `${state.group},${state.dims}`;
      if (key !== drawn) { plot.innerHTML = planes[key]; drawn = key; }
      const [x0, y0, x1, y1] = points[`${state.pair},${key}`];
      const a = data.values.first[state.first], b = data.values.second[state.second];
      const now = [x0 + a * (x1 - x0), y0 + b * (y1 - y0)];
      const put = (name, attributes) => plot.querySelectorAll(name).forEach((node) => { for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v); });
      put(".mv-way", { x1: x0, y1: y0, x2: x1, y2: y1 });
      put(".mv-went", { x1: x0, y1: y0, x2: now[0], y2: now[1] });
      put(".mv-from", { cx: x0, cy: y0 }), put(".mv-to", { cx: x1, cy: y1 }), put(".mv-now", { cx: now[0], cy: now[1] });
      plot.querySelectorAll(".mv-points circle").forEach((node, i) => node.setAttribute("fill", fills[colour][i]));
      legend.innerHTML = legends[colour];
    };
    const by = dropdown("coloured by", labels.map((name) => ({ name })), (i) => { colour = i; by.show(i); show(); });
    by.show(0);
    return { node: make("figure", { class: "mv-manifold" }, make("figcaption", {}, data.manifold.title), plot, by.node, legend), show };
  }

  function picture(sheet, title, kind) {
    const canvas = sheet.canvas(), caption = make("figcaption", {}, title);
    return { node: make("figure", { class: `mv-${kind}` }, caption, canvas), canvas, caption };
  }

  function explore(root, data, sheet) {
    const sizes = data.axes.map((axis) => data.values[axis].length);
    const state = { ...data.start };
    const find = (selector) => root.querySelector(selector);
    const cellOf = (change = {}) => data.cells[data.axes.reduce((index, axis, k) => index * sizes[k] + (change[axis] ?? state[axis]), 0)];
    const unique = (side) => [...new Set(data.values.pair.map((pair) => pair[side]))];
    const [originals, targets] = [unique(0), unique(1)];
    const names = (axis, i, side) => {
      if (axis === "group") return data.groups[i].name;
      if (axis === "dims") return `z${data.values.dims[i][side] + 1}`;
      return axis === "gamma" ? `\u03B3 = ${number(data.values.gamma[i])}` : number(data.values[axis][i]);
    };
    const pick = (change) => { Object.assign(state, change); show(); };
    const pickPair = (original, target) => {
      const allowed = data.values.pair.findIndex((pair) => pair[0] === original && pair[1] === target);
      pick({ pair: allowed >= 0 ? allowed : data.values.pair.findIndex((pair) => pair[0] === original) });
    };
    const photos = (list) => list.map((i) => data.images[i]);
    const pair = () => data.values.pair[state.pair];
    const controls = {};
    const several = (axis) => data.values[axis] && data.values[axis].length > 1;
    if (originals.length > 1) controls.original = choice("Original", photos(originals), sheet, (i) => pickPair(originals[i], pair()[1]));
    if (targets.length > 1) controls.target = choice("Target", photos(targets), sheet, (i) => pickPair(pair()[0], targets[i]));
    if (several("group")) controls.group = choice("Latent group", data.groups, sheet, (i) => pick({ group: i }));
    const pairs = (data.values.dims || []).map(([i, j]) => ({ name: `z${i + 1}, z${j + 1}` }));
    if (several("dims")) controls.dims = choice("Dimensions of the group", pairs, sheet, (i) => pick({ dims: i }));
    if (several("gamma")) controls.gamma = slider("Guidance \u03B3", data.values.gamma, (i) => pick({ gamma: i }), true);
    if (several("draw")) controls.draw = slider("Draw", data.values.draw.map((k) => k + 1), (i) => pick({ draw: i }), true);
    if (several("first")) controls.first = slider("Strength", data.values.first, (i) => pick({ first: i }), false);
    if (several("second")) controls.second = slider("Strength", data.values.second, (i) => pick({ second: i }), false);
    find(".mv-controls").append(...Object.values(controls).map((control) => control.node));

    const pictures = { original: picture(sheet, "Original", "original"), edit: picture(sheet, "", "edit"), target: picture(sheet, "Target", "target"), difference: picture(sheet, "Edit \u2212 original", "difference") };
    pictures.difference.node.append(make("div", { class: "mv-scale", "aria-hidden": "true" }, "darker", make("i"), "brighter"));
    const stage = find(".mv-stage");
    stage.append(...Object.values(pictures).map((item) => item.node));
    const plane = data.manifold && manifold(data, state);
    const all = matrix(data, sheet, state, cellOf, pick, names);
    stage.append((plane ?? all).node);
    if (plane) { stage.classList.add("mv-plane"); find(".mv-all").append(all.node); }
    if (data.size[0] < 64) root.classList.add("mv-coarse");

    function colourOf(name) {
      const probe = make("span");
      probe.style.color = `var(${name})`;
      root.append(probe);
      const found = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
      probe.remove();
      return found;
    }
    function describe(original, target) {
      const what = data.values.dims
        ? `${data.groups[state.group].name}: ${names("dims", state.dims, 0)} at ${names("first", state.first)}, ${names("dims", state.dims, 1)} at ${names("second", state.second)} of the way`
        : `${data.groups[state.group].name}, ${names("gamma", state.gamma)}`;
      const where = several("draw") ? `${what}, draw ${state.draw + 1} of ${data.values.draw.length}` : what;
      const moved = sheet.rmse(cellOf(), original.cell), whole = sheet.rmse(target.cell, original.cell);
      const quantities = data.values.dims ? ["first", "second"] : ["gamma"];
      const resting = quantities.every((axis) => data.values[axis][state[axis]] === 0) && quantities.some(several);
      return { where, says: `${resting ? data.texts.hint : ""}${where}: the edit differs from the original by ${moved.toFixed(3)} (RMSE of pixels from 0 to 1), the target by ${whole.toFixed(3)}.` };
    }
    function show() {
      const [original, target] = pair().map((i) => data.images[i]), group = data.groups[state.group];
      root.style.setProperty("--accent", group.color);
      const { where, says } = describe(original, target);
      sheet.draw(pictures.original.canvas, original.cell);
      sheet.draw(pictures.target.canvas, target.cell);
      sheet.draw(pictures.edit.canvas, cellOf());
      sheet.difference(pictures.difference.canvas, cellOf(), original.cell, colourOf("--up"), colourOf("--down"));
      pictures.edit.caption.textContent = data.values.dims ? "Edit" : `Edit, ${names("gamma", state.gamma)}`;
      pictures.original.caption.textContent = `Original: ${original.name}`;
      pictures.target.caption.textContent = `Target: ${target.name}`;
      const label = (name, text) => pictures[name].canvas.setAttribute("aria-label", text);
      label("original", `Original: ${original.name}`), label("target", `Target: ${target.name}`);
      label("edit", `Edit of ${original.name} towards ${target.name}. ${where}`), label("difference", "Difference between edit and original");
      find(".mv-says").textContent = says;
      controls.original?.show(originals.indexOf(pair()[0]));
      const reachable = data.values.pair.filter((p) => p[0] === pair()[0]).map((p) => targets.indexOf(p[1]));
      controls.target?.show(targets.indexOf(pair()[1]), reachable);
      for (const axis of ["group", "gamma", "draw", "dims", "first", "second"]) controls[axis]?.show(state[axis]);
      if (data.values.dims) [controls.first, controls.second].forEach((control, k) => control?.rename(`Strength of ${names("dims", state.dims, k)}`));
      all.show();
      plane?.show();
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
    show();
  }

  for (const root of document.querySelectorAll(".migvis-explorer:not([data-ready])")) {
    root.dataset.ready = "loading";
    const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
    const picture = new Image();
    picture.onload = () => { root.querySelector(".mv-wait")?.remove(); explore(root, data, openSheet(data, picture)); root.dataset.ready = "yes"; };
    picture.onerror = () => { root.querySelector(".mv-wait").textContent = "The pictures in this file could not be decoded; the file may be damaged."; };
    picture.src = data.sprite;
  }
})();
