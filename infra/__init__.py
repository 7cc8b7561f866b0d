"""Settings, logging, metric names, the local stack and the command line. Imports no other package of ours."""
