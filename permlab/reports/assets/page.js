(function () {
  "use strict";
  var root = document.documentElement;

  // ---- light and dark: the reader's system decides until the button is used
  var button = document.getElementById("theme");
  var system = window.matchMedia("(prefers-color-scheme: dark)");
  function remembered() { try { return localStorage.getItem("permlab-theme"); } catch (e) { return null; } }
  function dark() { var set = root.dataset.theme; return set ? set === "dark" : system.matches; }
  function label() {
    button.setAttribute("aria-pressed", String(dark()));
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", "Dark colours");
  }
  if (remembered()) { root.dataset.theme = remembered(); }
  label();
  button.addEventListener("click", function () {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("permlab-theme", root.dataset.theme); } catch (e) { /* a page from disk may have none */ }
    label();
  });
  system.addEventListener("change", label);

  // ---- tables: numbers by value, text by language; empty cells stay last
  function value(cell) {
    if (!cell) { return ""; }
    if (cell.dataset.sort !== undefined) { return Number(cell.dataset.sort); }
    return cell.textContent.trim();
  }
  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") { return a - b; }
    return String(a).localeCompare(String(b), "en", { numeric: true });
  }
  function sort(table, column, descending) {
    var body = table.tBodies[0];
    var rows = Array.from(body.rows).map(function (row, place) {
      return { row: row, place: place, value: value(row.cells[column]) };
    });
    rows.sort(function (a, b) {
      if ((a.value === "") !== (b.value === "")) { return a.value === "" ? 1 : -1; }
      return (descending ? -1 : 1) * compare(a.value, b.value) || a.place - b.place;
    });
    rows.forEach(function (entry) { body.appendChild(entry.row); });
  }
  document.querySelectorAll("thead").forEach(function (head) {
    Array.from(head.rows[0].cells).forEach(function (cell, column) {
      cell.setAttribute("aria-sort", "none");
      cell.querySelector("button").addEventListener("click", function () {
        var descending = cell.getAttribute("aria-sort") === "ascending";
        Array.from(head.rows[0].cells).forEach(function (other) { other.setAttribute("aria-sort", "none"); });
        cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
        sort(head.parentElement, column, descending);
      });
    });
  });

  // ---- figures: a dialog shows the drawing that is already in the page; Escape closes it
  var viewer = document.getElementById("viewer");
  var large = viewer.querySelector("img");
  document.querySelectorAll(".zoom").forEach(function (zoom) {
    zoom.addEventListener("click", function () {
      var small = zoom.querySelector("img");
      large.src = small.src;
      large.alt = small.alt;
      document.getElementById("viewer-caption").textContent =
        zoom.parentElement.querySelector("figcaption").textContent;
      viewer.showModal();
    });
  });
  document.getElementById("close").addEventListener("click", function () { viewer.close(); });
  viewer.addEventListener("click", function (event) { if (event.target === viewer) { viewer.close(); } });

  // ---- index: mark where the reader is; a link into folded text unfolds it
  var links = Array.from(document.querySelectorAll("nav a"));
  var sections = links.map(function (link) { return document.getElementById(link.hash.slice(1)); });
  if ("IntersectionObserver" in window) {
    var observer = new IntersectionObserver(function () {
      var here = 0;
      sections.forEach(function (section, i) {
        if (section && section.getBoundingClientRect().top < window.innerHeight / 3) { here = i; }
      });
      links.forEach(function (link, i) {
        if (i === here) { link.setAttribute("aria-current", "true"); } else { link.removeAttribute("aria-current"); }
      });
    }, { threshold: [0, 0.1, 0.5, 1] });
    sections.forEach(function (section) { if (section) { observer.observe(section); } });
  }
  // ---- a page that reads itself again stays where it was, with open what was open
  if (document.querySelector("meta[http-equiv=refresh]")) {
    var folds = Array.from(document.querySelectorAll("details"));
    var called = function (part) { return part.closest("section").id + " " + part.firstElementChild.textContent; };
    var kept = null;
    try { kept = JSON.parse(sessionStorage.getItem("permlab-watch")); } catch (e) { /* nothing kept */ }
    if (kept && Array.isArray(kept.open)) {
      folds.forEach(function (part) { part.open = kept.open.indexOf(called(part)) >= 0; });
      root.style.scrollBehavior = "auto";
      window.scrollTo(0, kept.at);
      root.style.scrollBehavior = "";
    }
    window.addEventListener("pagehide", function () {
      var names = folds.filter(function (part) { return part.open; }).map(called);
      try { sessionStorage.setItem("permlab-watch", JSON.stringify({ open: names, at: window.scrollY })); } catch (e) { /* none */ }
    });
  }
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("main section section > details").forEach(function (part) { part.open = true; });
  });
})();
