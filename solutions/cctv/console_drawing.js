// Drawing on a camera's picture. Places are relative to it, from 0 to 1. Python loads and saves; names and words are
// always set as text, never as HTML.
window.haechiDrawing = (() => {
  const SVG = "http://www.w3.org/2000/svg", NAME = /^[a-z][a-z0-9_]{0,63}$/, CLOSE_PX = 12, STEP = 0.005;
  const KINDS = ["zones", "lines", "private"];
  let shapes = { zones: {}, lines: {}, private: {} }, words = {}, draft = [], changed = false, dragged = null;
  const find = (selector) => document.querySelector(selector);
  const kind = () => find(".cv-kind").value;
  const clamp = (value) => Math.min(1, Math.max(0, value));
  const round = (value) => Math.round(clamp(value) * 10000) / 10000;
  const make = (name, attributes, parent) => {
    const element = name === "svg" || parent instanceof SVGElement ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parent.append(element);
    return element;
  };
  const place = (event) => {
    const box = find(".cv-overlay").getBoundingClientRect();
    return [round((event.clientX - box.left) / box.width), round((event.clientY - box.top) / box.height)];
  };
  const touch = () => { changed = true; render(); };

  const handle = (overlay, points, index, part, label) => {
    const [x, y] = points[index];
    const made = make("i", { class: `cv-handle ${part}`, style: `left:${x * 100}%;top:${y * 100}%`, tabindex: 0, "data-name": label, "data-index": index, role: "button", "aria-label": `${label} ${index + 1}` }, overlay);
    made.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      event.preventDefault();
      if (part === "draft" && index === 0 && points.length > 2) { finish(); return; }
      dragged = { points, index };
    });
    made.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
      if (!move) return;
      event.preventDefault();
      points[index] = [round(x + move[0]), round(y + move[1])];
      touch();
      find(`.cv-handle[data-name="${label}"][data-index="${index}"]`)?.focus();
    });
  };

  const outline = (svg, points, part, closed) => {
    const places = points.map(([x, y]) => `${x * 1000},${y * 1000}`).join(" ");
    make(closed ? "polygon" : "polyline", { points: places, class: `cv-shape ${part}`, "vector-effect": "non-scaling-stroke" }, svg);
  };

  const render = () => {
    const overlay = find(".cv-overlay");
    overlay.replaceChildren();
    const svg = make("svg", { viewBox: "0 0 1000 1000", preserveAspectRatio: "none" }, overlay);
    for (const part of KINDS)
      for (const [name, points] of Object.entries(shapes[part])) {
        outline(svg, points, part, part !== "lines");
        points.forEach((_, index) => handle(overlay, points, index, part, name));
        make("span", { class: `cv-label ${part}`, style: `left:${points[0][0] * 100}%;top:${points[0][1] * 100}%` }, overlay).textContent = part === "lines" ? `${name} →` : name;
      }
    outline(svg, draft, "draft", false);
    draft.forEach((_, index) => handle(overlay, draft, index, "draft", "draft"));
    list();
    find(".cv-unsaved").classList.toggle("shown", changed);
  };

  const list = () => {
    const area = find(".cv-shapes");
    area.replaceChildren();
    for (const part of KINDS)
      for (const name of Object.keys(shapes[part])) {
        const row = make("li", { "data-name": name }, area);
        make("span", { class: `cv-chip ${part}` }, row).textContent = words[part] || part;
        make("b", {}, row).textContent = name;
        const remove = make("button", { type: "button", class: "hc-button small cv-remove", "aria-label": `${words.remove} ${name}` }, row);
        remove.textContent = words.remove;
        remove.addEventListener("click", () => { delete shapes[part][name]; touch(); });
      }
    if (!area.children.length) make("li", { class: "hc-note" }, area).textContent = words.none;
  };

  const chosenName = (part) => {
    const typed = find(".cv-name").value.trim();
    if (typed) return NAME.test(typed) ? typed : null;
    let number = 1;
    const stem = { zones: "zone", lines: "line", private: "private" }[part];
    while (shapes[part][`${stem}_${number}`]) number += 1;
    return `${stem}_${number}`;
  };

  const finish = () => {
    const part = kind(), name = chosenName(part), input = find(".cv-name");
    if (draft.length < (part === "lines" ? 2 : 3)) return;
    input.setCustomValidity(name ? "" : words.bad_name);
    if (!name) { input.reportValidity(); return; }
    shapes[part][name] = draft;
    draft = [];
    input.value = "";
    touch();
  };
  const undo = () => { draft.pop(); render(); };

  const begin = () => {
    const canvas = find(".cv-canvas");
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.focus({ preventScroll: true });
      const point = place(event), box = find(".cv-overlay").getBoundingClientRect();
      if (draft.length > 2 && Math.hypot((point[0] - draft[0][0]) * box.width, (point[1] - draft[0][1]) * box.height) < CLOSE_PX) { finish(); return; }
      draft.push(point);
      if (kind() === "lines" && draft.length === 2) finish();
      else render();
    });
    window.addEventListener("pointermove", (event) => {
      if (!dragged) return;
      dragged.points[dragged.index] = place(event);
      touch();
    });
    window.addEventListener("pointerup", () => { dragged = null; });
    canvas.addEventListener("keydown", (event) => {
      if (event.key === "Enter") finish();
      else if (event.key === "Escape") { draft = []; render(); }
      else if (event.key === "Backspace") undo();
    });
    find(".cv-kind").addEventListener("change", () => { draft = []; render(); });
    window.addEventListener("beforeunload", (event) => { if (changed) event.preventDefault(); });
  };

  const load = (drawing, said) => { words = said; shapes = structuredClone(drawing); changed = false; begin(); render(); find(".cv-canvas").classList.add("ready"); };
  const saved = (drawing) => { shapes = structuredClone(drawing); changed = false; render(); };
  return { load, saved, finish, undo, value: () => structuredClone(shapes) };
})();
