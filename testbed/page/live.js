"use strict";
// Asks once a second for the sections that have changed, and puts them in their places; what was open stays open.
let version = -1;
const place = document.getElementById("sections");
const byName = (name) => document.getElementById(name);

function put(section) {
  const made = document.createElement("template");
  made.innerHTML = section.html;
  const fresh = made.content.firstElementChild;
  const old = byName(section.name);
  if (!old) {
    place.append(fresh);
    return;
  }
  old.querySelectorAll("details").forEach((each) => {
    const same = fresh.querySelector("#" + CSS.escape(each.id));
    if (same) same.open = each.open;
  });
  old.replaceWith(fresh);
}

async function ask() {
  let news;
  try {
    const answer = await fetch("changes?since=" + version, { cache: "no-store" });
    news = await answer.json();
  } catch {
    byName("state").textContent = "The run, or its server, has ended. Below is the last that it said.";
    return;
  }
  version = news.version;
  news.sections.forEach(put);
  [...place.children].filter((each) => !news.order.includes(each.id)).forEach((each) => each.remove());
  const order = [...place.children].map((each) => each.id);
  if (order.join() !== news.order.join()) news.order.forEach((name) => place.append(byName(name)));
  document.title = news.title;
  document.querySelector("h1").textContent = news.title;
  document.querySelector(".subtitle").textContent = news.subtitle;
  if (news.over) document.documentElement.dataset.over = "yes";
  else setTimeout(ask, 1000);
}

ask();
