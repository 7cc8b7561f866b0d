-- Run once, when the volume is new; the image itself makes MLflow's database.
CREATE DATABASE feast;
