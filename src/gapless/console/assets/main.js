// Begins everything: what is on the page works without it, and lives with it.
import { begin as live } from "./live.js";
import { begin as times } from "./times.js";
import { begin as charts } from "./charts.js";
import { begin as ask } from "./ask.js";
import { begin as keys } from "./keys.js";
import { begin as theme } from "./theme.js";

times();
charts();
ask();
theme();
keys();
live();
// On a phone menus are wider than the page: where one is stands in view.
for (const tab of document.querySelectorAll(".menu [aria-current], .tabs [aria-current]")) tab.parentElement.scrollLeft = tab.offsetLeft - 16;
