"""What runs beside the machine: cameras, PLCs, agent. No torch here."""
