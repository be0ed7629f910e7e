// Installs lockrun and, with the input `name`, takes a lock that post.js gives back.
"use strict";

const { spawn, spawnSync } = require("node:child_process");
const { createHash } = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");

// process.arch, and what a release calls it.
const TARGETS = { x64: "x86_64-unknown-linux-gnu", arm64: "aarch64-unknown-linux-gnu" };

const input = (name) => (process.env[`INPUT_${name.toUpperCase()}`] || "").trim();

// GITHUB_ENV, GITHUB_PATH and the like are files that the runner reads after the step.
const tellRunner = (file, line) => fs.appendFileSync(process.env[file], `${line}\n`);

async function main() {
  const program = input("program") || (await install());
  tellRunner("GITHUB_PATH", path.dirname(program));
  tellRunner("GITHUB_OUTPUT", `program=${program}`);
  if (input("name")) await acquire(program);
}

async function install() {
  const target = TARGETS[process.arch];
  if (process.platform !== "linux" || !target) {
    throw new Error(`there is no release of lockrun for ${process.platform} on ${process.arch}`);
  }
  const version = input("version") || ownVersion();
  const from = input("from") || releaseUrl(version);
  const name = `lockrun-${version}-${target}`;
  const archive = `${name}.tar.gz`;
  const content = await read(from, archive);
  verify(content, archive, (await read(from, "SHA256SUMS")).toString());

  const directory = process.env.RUNNER_TEMP;
  const unpacked = spawnSync("tar", ["-xzf", "-", "-C", directory], { input: content, encoding: "utf8" });
  if (unpacked.status !== 0) {
    throw new Error(`cannot unpack ${archive} in ${directory}: ${unpacked.error || unpacked.stderr}`);
  }
  return path.join(directory, name, "bin", "lockrun");
}

function ownVersion() {
  const manifest = fs.readFileSync(path.join(__dirname, "..", "Cargo.toml"), "utf8");
  return /^version = "(.*)"$/m.exec(manifest)[1];
}

function releaseUrl(version) {
  const { GITHUB_SERVER_URL: server, GITHUB_ACTION_REPOSITORY: repository } = process.env;
  if (!repository) {
    throw new Error("an action of the repository itself has no release to install: give 'from' or 'program'");
  }
  return `${server}/${repository}/releases/download/v${version}`;
}

async function read(from, file) {
  if (!/^https?:/.test(from)) return fs.readFileSync(path.join(from, file));
  const url = `${from.replace(/\/$/, "")}/${file}`;
  const answer = await fetch(url).catch((error) => {
    throw new Error(`cannot download ${url}: ${error.cause || error}`);
  });
  if (!answer.ok) throw new Error(`cannot download ${url}: ${answer.status} ${answer.statusText}`);
  return Buffer.from(await answer.arrayBuffer());
}

function verify(content, file, sums) {
  const line = sums.split("\n").find((each) => each.endsWith(`  ${file}`));
  if (!line) throw new Error(`SHA256SUMS does not name ${file}`);
  const sum = createHash("sha256").update(content).digest("hex");
  if (line !== `${sum}  ${file}`) {
    throw new Error(`${file} is not the file that SHA256SUMS describes: it was not installed; run the job again`);
  }
}

async function acquire(program) {
  const args = ["acquire", "--name", input("name"), "--timeout", input("timeout") || "forever"];
  args.push("--expires", input("expires") || "forever");
  for (const option of ["dir", "store"]) {
    if (input(option)) args.push(`--${option}`, input(option));
  }
  // The runner's process for this job. In a container it cannot be seen (0); there the
  // keeper is killed with the container, or as one of the job's leftovers.
  if (process.ppid > 0) args.push("--owner", `${process.ppid}`);

  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => child.kill(signal));
  let token = "";
  child.stdout.on("data", (data) => (token += data));
  const [code, signal] = await new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (...ended) => resolve(ended));
  });
  if (code !== 0) {
    console.log(`::error title=lockrun::the lock ${input("name")} was not taken (${signal || `exit code ${code}`})`);
    process.exitCode = code || 1;
    return;
  }
  token = token.trim();
  console.log(`::add-mask::${token}`);
  tellRunner("GITHUB_STATE", `token=${token}`);
  tellRunner("GITHUB_STATE", `program=${program}`);
  tellRunner("GITHUB_ENV", `LOCKRUN_TOKEN=${token}`);
}

main().catch((error) => {
  console.log(`::error title=lockrun::${error.message}`);
  process.exitCode = 1;
});
