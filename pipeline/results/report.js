"use strict";
(() => {
  const one = (id) => document.getElementById(id);
  const all = (what, where = document) => [...where.querySelectorAll(what)];
  const cards = all(".card"), grid = one("cards"), large = one("large"), chips = all(".chip");
  const pressed = (button) => button.getAttribute("aria-pressed") === "true";
  const press = (button, on) => button && button.setAttribute("aria-pressed", String(on));

  one("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // outlines: all at once, or one picture at a time
  const outlines = (on) => {
    press(one("lines"), on);
    press(one("large-lines"), on);
    cards.forEach((card) => press(card.querySelector(".picture"), on));
    one("stage").classList.toggle("plain", !on);
  };
  one("lines").addEventListener("click", () => outlines(!pressed(one("lines"))));
  grid.addEventListener("click", (event) => {
    const zoom = event.target.closest(".zoom"), picture = event.target.closest(".picture");
    if (zoom) enlarge(zoom.closest(".card"));
    else if (picture) press(picture, !pressed(picture));
  });

  // which images are shown, and in which order
  const flags = new Set();
  const visible = () => cards.filter((card) => !card.hidden).sort((a, b) => [...grid.children].indexOf(a) - [...grid.children].indexOf(b));
  const filter = () => {
    const words = one("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const card of cards) {
      const text = `${card.dataset.name} ${card.dataset.group}`.toLowerCase(), has = card.dataset.flags.split(" ");
      card.hidden = !(words.every((word) => text.includes(word)) && [...flags].every((flag) => has.includes(flag)));
      shown += !card.hidden;
    }
    one("nothing").hidden = shown > 0 || cards.length === 0;
    one("shown").textContent = shown === cards.length ? initially : `${shown} of ${cards.length}`;
  };
  const initially = one("shown").textContent;
  one("search").addEventListener("input", filter);
  chips.forEach((chip) => chip.addEventListener("click", () => {
    press(chip, !pressed(chip));
    flags.clear();
    chips.filter(pressed).forEach((on) => flags.add(on.dataset.flag));
    one("advice").hidden = flags.size === 0;
    one("advice").textContent = chips.filter(pressed).map((on) => on.title).filter(Boolean).join(" · ");
    filter();
  }));
  one("reset").addEventListener("click", () => {
    one("search").value = "";
    chips.filter(pressed).forEach((chip) => chip.click());
    filter();
    one("search").focus();
  });
  const natural = new Intl.Collator(undefined, { numeric: true });
  one("order").addEventListener("change", () => {
    const down = one("order").value.startsWith("-") ? -1 : 1, key = one("order").value.replace("-", "");
    const before = (a, b) => (key === "name" ? natural.compare(a.dataset.name, b.dataset.name) : down * (a.dataset[key] - b.dataset[key]));
    cards.sort((a, b) => before(a, b) || a.dataset.place - b.dataset.place).forEach((card) => grid.append(card));
  });

  // one picture, large
  let current = null;
  const enlarge = (card) => {
    if (!card) return;
    current = card;
    one("large-name").textContent = card.dataset.name;
    one("large-said").textContent = card.querySelector(".said p").textContent;
    one("stage").replaceChildren(...all("img", card).map((img) => img.cloneNode()));
    one("stage").classList.toggle("plain", !pressed(one("large-lines")));
    if (!large.open) large.showModal();
  };
  const step = (by) => {
    const shown = visible().filter((card) => card.querySelector(".zoom"));
    enlarge(shown[(shown.indexOf(current) + by + shown.length) % shown.length]);
  };
  const toggleLarge = () => {
    press(one("large-lines"), !pressed(one("large-lines")));
    one("stage").classList.toggle("plain", !pressed(one("large-lines")));
  };
  one("previous").addEventListener("click", () => step(-1));
  one("next").addEventListener("click", () => step(1));
  one("close").addEventListener("click", () => large.close());
  one("large-lines").addEventListener("click", toggleLarge);
  one("stage").addEventListener("click", toggleLarge);
  large.addEventListener("close", () => current && current.querySelector(".zoom").focus());
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "o") (large.open ? toggleLarge : () => one("lines").click())();
    else if (large.open && event.key === "ArrowLeft") step(-1);
    else if (large.open && event.key === "ArrowRight") step(1);
  });

  // tables
  all("table.sortable").forEach((table) => all("thead button", table).forEach((button, column) => button.addEventListener("click", () => {
    const head = button.closest("th"), down = head.getAttribute("aria-sort") === "ascending";
    all("th[aria-sort]", table).forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => {
      const cell = row.children[column];
      return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
    };
    const compare = (a, b) => {
      if (typeof a === "string") return natural.compare(a, b) * (down ? -1 : 1);
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
      return (a - b) * (down ? -1 : 1);
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b))));
  })));
})();
