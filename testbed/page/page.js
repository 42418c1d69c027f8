"use strict";
// On paper nothing can be opened: everything is.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
