"""The guest as a whole: details, clock, random numbers, modules, name servers, files from the host."""
