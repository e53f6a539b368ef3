"""Pure: `spillway simulate`: what a ModelDeployment would have done on a recorded load, in virtual time."""
