"use strict";
// Lights up the part that is hovered, tapped or focused, in all columns, and shows its facts.
const $ = (selector, root = document) => [...root.querySelectorAll(selector)];
const dock = document.getElementById("dock");
const nets = $("input[name=net]");
let pinned = false, shown = "";

const current = () => Math.max(0, nets.findIndex(input => input.checked));
const section = () => document.getElementById("n" + current());

function light(unit) {
  $(".lit").forEach(element => element.classList.remove("lit"));
  shown = unit;
  if (unit) $(`[data-u~="${unit}"]`, section()).forEach(element => element.classList.add("lit"));
  const facts = unit && document.getElementById(current() + "-" + unit);
  dock.hidden = !facts;
  if (!facts) return;
  const copy = facts.cloneNode(true);
  copy.removeAttribute("id");
  const close = document.createElement("button");
  close.className = "close";
  close.textContent = "close (Esc)";
  close.onclick = () => release();
  const state = document.createElement("span");
  state.className = "pinned";
  state.textContent = pinned ? "held" : "click to hold";
  const preset = document.createElement("small");
  preset.textContent = " of " + section().dataset.preset;
  copy.querySelector("h4").append(preset);
  dock.replaceChildren(close, state, copy);
}

function release() {
  pinned = false;
  light("");
  remember();
}

// Its first line that is of nothing else comes onto the screen.
function show(unit) {
  const lines = $(`.l[data-u="${unit}"]`, section()).concat($(`.l[data-u~="${unit}"]`, section()));
  lines.find(line => line.offsetParent)?.scrollIntoView({block: "center"});
}

// The part that a line belongs to: of several, the one that the row is about.
function unitOf(element) {
  const found = element.closest("[data-u]");
  return found && !found.closest("#dock, .facts") ? found.dataset.u.split(" ")[0] : "";
}

function remember() {
  const preset = section().dataset.preset;
  history.replaceState(null, "", "#" + preset + (pinned && shown ? ":" + shown : ""));
}

document.addEventListener("mouseover", event => {
  const unit = pinned ? "" : unitOf(event.target);
  if (unit && unit !== shown) light(unit);
});
document.addEventListener("focusin", event => {
  if (event.target.matches(".chip") && !pinned) light(event.target.dataset.u);
});
document.addEventListener("click", event => {
  const unit = unitOf(event.target);
  if (!unit) return;
  if (event.target.closest(".chip")) event.preventDefault();
  if (getSelection().toString()) return;
  if (pinned && unit === shown) return release();
  pinned = true;
  light(unit);
  remember();
});
document.addEventListener("keydown", event => {
  if (event.key === "Escape") return release();
  if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  const step = {n: 1, p: -1, j: 1, k: -1}[event.key];
  if (!step) return;
  const units = $(".chip", section()).map(chip => chip.dataset.u);
  const next = units[(units.indexOf(shown) + step + units.length) % units.length];
  pinned = true;
  light(next);
  show(next);
  remember();
});

// Another network: what differs from the last one lights up, and the place on the screen stays.
let last = current();
nets.forEach((input, i) => input.addEventListener("change", () => {
  const from = document.getElementById("from" + last);
  if (last !== i) from.checked = true;
  const unit = shown;
  const before = anchor(document.getElementById("n" + last));
  last = i;
  light($(".chip", section()).some(chip => chip.dataset.u === unit) ? unit : "");
  keep(before, section());
  remember();
}));

// The row at the top of the screen, and how far down it stands.
function anchor(root) {
  const rows = $(".row", root);
  const top = document.querySelector(".bar").getBoundingClientRect().bottom;
  const row = rows.find(one => one.getBoundingClientRect().bottom > top) || rows[0];
  return [row.dataset.row, row.getBoundingClientRect().top];
}

function keep([name, top], root) {
  const row = root.querySelector(`.row[data-row="${name}"]`);
  if (row && scrollY > 0) scrollBy(0, row.getBoundingClientRect().top - top);
}

// Another column on a narrow screen: the lit line comes to where the last one stood.
let place = null;
$("input[name=view]").forEach(input => {
  const label = document.querySelector(`label[for=${input.id}]`);
  const note = () => {
    const line = $(".l.lit", section()).find(one => one.offsetParent);
    place = line ? ["lit", line.getBoundingClientRect().top] : anchor(section());
  };
  label.addEventListener("pointerdown", note);
  input.addEventListener("keydown", note);
  input.addEventListener("change", () => {
    if (!place) return;
    const [name, top] = place;
    if (name !== "lit") return keep(place, section());
    const line = $(".l.lit", section()).find(one => one.offsetParent);
    if (line) scrollBy(0, line.getBoundingClientRect().top - top);
  });
});

// An address names a network, and a part: #bit/r50x1:block.2
function follow() {
  const [preset, unit] = decodeURIComponent(location.hash.slice(1)).split(":");
  const i = $(".net").findIndex(one => one.dataset.preset === preset);
  if (i < 0) return;
  nets[i].checked = true;
  last = i;
  if (unit && $(`.chip[data-u="${CSS.escape(unit)}"]`, section()).length) {
    pinned = true;
    light(unit);
    show(unit);
  }
}
addEventListener("hashchange", follow);
follow();
