#!/usr/bin/env node
console.log("spillway");
