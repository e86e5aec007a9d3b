package main

// Plots of what depth costs, as SVG and PNG.

import (
	"fmt"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// chart is a figure against depth, a line for each peer.
type chart struct {
	name, title string
	group       string
	load        load
	metrics     []metric // the first is drawn as a line, the next one dashed
}

func charts() []chart {
	read, read1 := small("randread", 16), small("randread", 1)
	write := small("randwrite", 16).after()
	return []chart{
		{"read-iops", "4 KiB random reads, queue depth 16", "reads", read, []metric{iops}},
		{"read-latency", "4 KiB random reads, queue depth 16: p50, and p99 dashed", "reads", read, []metric{p50, p99}},
		{"read-latency-1", "4 KiB random reads, queue depth 1: p50, and p99 dashed", "reads", read1, []metric{p50, p99}},
		{"write-iops", "4 KiB random writes just after a snapshot, queue depth 16", "writes", write, []metric{iops}},
	}
}

// depths lists at how many snapshots the chart's figures were measured.
func (c chart) depths(r *results) (all []int) {
	for _, at := range r.rows {
		if at.group == c.group && at.work == c.load.String() && at.metric == c.metrics[0] {
			all = append(all, at.depth)
		}
	}
	slices.Sort(all)
	return all
}

// writePlots draws the charts for which there is something to draw, and returns their files' names without the ending.
func writePlots(dir, prefix string, r *results) (names []string, err error) {
	for _, c := range charts() {
		depths := c.depths(r)
		if len(depths) < 2 {
			continue
		}
		name := prefix + "-" + c.name
		if err := c.draw(filepath.Join(dir, name), depths, r); err != nil {
			return nil, fmt.Errorf("plot %s: %w", name, err)
		}
		names = append(names, name)
	}
	return names, nil
}

// draw writes both files. Depths stand side by side, whatever lies between them; the other axis is logarithmic.
func (c chart) draw(path string, depths []int, r *results) error {
	p := plot.New()
	p.Title.Text = c.title
	p.X.Label.Text = "snapshots below the disk"
	p.Y.Label.Text = c.metrics[0].name
	if len(c.metrics) > 1 {
		p.Y.Label.Text = "µs"
	}
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	var labels []string
	for _, depth := range depths {
		labels = append(labels, fmt.Sprint(depth))
	}
	p.NominalX(labels...)
	p.Add(plotter.NewGrid())
	p.Legend.Top, p.Legend.Left = false, true
	for i, who := range peers {
		for k, m := range c.metrics {
			if err := c.line(p, i, k, who, m, depths, r); err != nil {
				return err
			}
		}
	}
	for _, ending := range []string{".svg", ".png"} {
		if err := p.Save(18*vg.Centimeter, 11*vg.Centimeter, path+ending); err != nil {
			return err
		}
	}
	return nil
}

// line adds what a peer did, if it was measured.
func (c chart) line(p *plot.Plot, color, dashes int, who peer, m metric, depths []int, r *results) error {
	var points plotter.XYs
	for x, depth := range depths {
		if s := r.of(row{c.group, c.load.String(), depth, m}, who); s != nil {
			points = append(points, plotter.XY{X: float64(x), Y: s.median()})
		}
	}
	if points == nil {
		return nil
	}
	line, marks, err := plotter.NewLinePoints(points)
	if err != nil {
		return err
	}
	line.Color, marks.Color = plotutil.Color(color), plotutil.Color(color)
	line.Dashes, marks.Shape = plotutil.Dashes(dashes), plotutil.Shape(color)
	line.Width = vg.Points(1.5)
	p.Add(line, marks)
	if dashes == 0 {
		p.Legend.Add(string(who), line, marks)
	}
	return nil
}
