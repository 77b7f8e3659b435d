"""Accepts pushes and decides where each delivery goes; must know channels and stores only by model.ports."""
