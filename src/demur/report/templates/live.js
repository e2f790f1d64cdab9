// The page is rewritten while the run goes on: look again every half minute, from the same place.
setTimeout(() => location.reload(), 30000);
