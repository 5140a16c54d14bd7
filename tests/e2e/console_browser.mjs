// A browser for tests/e2e/test_console.py: commands come as JSON lines on standard input, answers go as JSON lines out.
// One Chromium for all tests; each `open` is a fresh page.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const [modules, profile] = process.argv.slice(2);
const require = createRequire(modules + "/");
const { chromium } = require("playwright-core");
const axe = require.resolve("axe-core/axe.min.js");
const LIMIT_MS = 30_000;
const flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

const context = await chromium.launchPersistentContext(profile, { executablePath: "/usr/bin/chromium", headless: true, args: flags, bypassCSP: false });
let page = null;
let troubles = [];

const acts = {
  async open({ url, width = 1280, height = 860, theme = "light" }) {
    if (page) await page.close();
    page = await context.newPage();
    page.setDefaultTimeout(LIMIT_MS);
    troubles = [];
    page.on("pageerror", (error) => troubles.push(String(error)));
    page.on("console", (message) => {
      if (message.type() === "error") troubles.push(message.text());
    });
    await page.emulateMedia({ colorScheme: theme });
    await page.setViewportSize({ width, height });
    const answer = await page.goto(url);
    return answer.status();
  },
  go: async ({ url }) => (await page.goto(url)).status(),
  wait: async ({ text, where = "body" }) => void (await page.locator(where, { hasText: text }).first().waitFor()),
  gone: async ({ text, where = "body" }) => void (await page.locator(where, { hasText: text }).first().waitFor({ state: "detached" })),
  click: async ({ name, role = "button", where = "body", within = "" }) =>
    void (await page.locator(where, { hasText: within }).first().getByRole(role, { name, exact: true }).first().click()),
  fill: async ({ label, text, role = "textbox" }) => void (await page.getByRole(role, { name: label }).fill(text)),
  async download({ name }) {
    const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("link", { name, exact: true }).first().click()]);
    return { name: file.suggestedFilename(), text: readFileSync(await file.path(), "utf8") };
  },
  press: async ({ keys }) => {
    for (const key of keys) await page.keyboard.press(key);
  },
  focused: () => page.evaluate(() => document.activeElement.outerHTML.slice(0, 300)),
  outlined: () => page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle !== "none"),
  text: ({ where = "body" }) => page.locator(where).first().innerText(),
  count: ({ where }) => page.locator(where).count(),
  shift: () =>
    page.evaluate(
      () =>
        new Promise((resolve) => {
          let moved = 0;
          new PerformanceObserver((list) => list.getEntries().forEach((entry) => (moved += entry.value))).observe({ type: "layout-shift", buffered: true });
          setTimeout(() => resolve(moved), 2500);
        }),
    ),
  wide: () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth),
  url: () => page.url(),
  theme: () => page.evaluate(() => document.documentElement.dataset.theme || ""),
  troubles: () => troubles.splice(0),
  async axe() {
    // The policy of the page forbids foreign scripts: axe is run by the debugger instead.
    await page.evaluate(readFileSync(axe, "utf8"));
    const { violations } = await page.evaluate(() => axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"] }));
    return violations.map((one) => `${one.id}: ${one.help}: ${one.nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(" | ")}`);
  },
};

console.log(JSON.stringify({ ready: context.browser()?.version() ?? true }));
for await (const line of createInterface({ input: process.stdin })) {
  const { act, ...rest } = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await acts[act](rest)) ?? null };
  } catch (error) {
    answer = { error: String(error) };
  }
  console.log(JSON.stringify(answer));
}
await context.close();
