// Gives back the lock that main.js has taken, also in a job that has failed.
"use strict";

const { spawnSync } = require("node:child_process");

const { STATE_program: program, STATE_token: token } = process.env;
if (token) {
  const env = { ...process.env, LOCKRUN_TOKEN: token };
  const { error, signal, status } = spawnSync(program, ["release"], { env, stdio: "inherit" });
  if (status !== 0) {
    const why =
      status === 123
        ? "the lock was lost before the job ended, so that another may have run beside it"
        : `the lock was not given back (${error || signal || `exit code ${status}`})`;
    console.log(`::error title=lockrun::${why}`);
    process.exitCode = 1;
  }
}
