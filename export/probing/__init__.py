"""Which operators a Hexagon takes, measured: one-operator graphs, compiled and run one by one."""
