"""How weights become integers: the form that each reader gets, the integers themselves, and what is given up first."""
