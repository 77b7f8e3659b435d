"""Diameter towards an operator's network: its HSS is asked (Sh, S6m), its MTC-IWF triggers devices (Tsp) (C7, C10,
C14); must never show whom it asks for."""
