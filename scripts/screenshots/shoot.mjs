// Photographs each page of a console, light and dark: node shoot.mjs MODULES URL DIRECTORY
import { createRequire } from "node:module";
import { mkdirSync, writeFileSync } from "node:fs";

const [modules, base, into] = process.argv.slice(2);
const { chromium } = createRequire(`${process.cwd()}/${modules}/`)("playwright-core");
const flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const QUALITY = 82;
const pages = {
  fleet: "/",
  rollout: "/rollouts/storefront",
  incidents: "/incidents",
  topology: "/topology",
  instances: "/instances",
  traces: "/traces",
  configuration: "/configuration/orders",
  objectives: "/objectives",
};

mkdirSync(into, { recursive: true });
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", headless: true, args: flags });
for (const [name, path] of Object.entries(pages)) {
  for (const theme of ["light", "dark"]) {
    const page = await browser.newPage({ viewport: { width: 1280, height: 820 }, colorScheme: theme });
    await page.goto(base + path);
    await page.locator("#live", { hasText: "live" }).waitFor();
    if (name === "traces") {
      // The one that passed the most services.
      const rows = await page.locator("#r-traces tbody tr").evaluateAll((all) => all.map((row) => [row.cells[1].innerText.length, row.querySelector("a").getAttribute("href")]));
      await page.goto(base + rows.sort((a, b) => b[0] - a[0])[0][1]);
      await page.locator("#live", { hasText: "live" }).waitFor();
    }
    await page.waitForTimeout(1500);
    const picture = await page.screenshot({ type: "png" });
    writeFileSync(`${into}/console-${name}-${theme}.webp`, await webp(page, picture));
    await page.close();
  }
}
await browser.close();

// Chromium itself is the encoder: no other program is needed.
async function webp(page, png) {
  await page.goto("about:blank");
  const address = await page.evaluate(
    async ([data, quality]) => {
      const picture = await createImageBitmap(await (await fetch(`data:image/png;base64,${data}`)).blob());
      const canvas = new OffscreenCanvas(picture.width, picture.height);
      canvas.getContext("2d").drawImage(picture, 0, 0);
      const blob = await canvas.convertToBlob({ type: "image/webp", quality: quality / 100 });
      return [...new Uint8Array(await blob.arrayBuffer())];
    },
    [png.toString("base64"), QUALITY],
  );
  return Buffer.from(address);
}
